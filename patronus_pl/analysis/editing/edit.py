"""Edits: set activations, keep the noise, decode; and how faithfully the picture follows.

An image is taken apart into its activations s and the noise x_T that DDIM inversion finds for it under s; what is
decoded from x_T under other activations is the edited image. Edits are sampled in few steps of DPM-Solver++.
All results are on the CPU.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patronus_pl.analysis.editing.changes import Change, set_activations
from patronus_pl.analysis.editing.decoding import encode, put_together
from patronus_pl.analysis.editing.inverting import Parts, take_apart
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion.sampling import Sampler
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import psnr
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Activations, Image

PSNR_FLOOR = 25.0
"""Edits of images that come back from their own noise with less than this many dB are flagged."""


# ---- taking apart and putting together -------------------------------------------------------------------------------


class Job(NamedTuple):
    """Some (prototype, image) pairs and what to decode for them: k pairs, v values each, k·v rows, pair by pair."""

    prototype: Int[Tensor, " k"]
    """Positions in the list of prototypes, not their indices."""
    image: Int[Tensor, " k"]
    x_T: Float[Tensor, "kv c h w"]
    s: Float[Tensor, "kv m"]


def jobs(
    parts: Parts, prototypes: Sequence[int], values: Float[Tensor, "p v"], batch_size: int, device: torch.device
) -> Iterator[Job]:
    """Every prototype set to each of its v values in every image, `batch_size` rows at a time (at least a pair)."""
    p, v = values.shape
    index = torch.tensor(prototypes)
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(len(parts.s)))
    for which, image in (chunk.unbind(1) for chunk in torch.split(pairs, max(1, batch_size // v))):
        s = parts.s[image].repeat_interleave(v, 0)
        s[torch.arange(len(s)), index[which].repeat_interleave(v)] = values[which].flatten()
        yield Job(which, image, parts.x_T[image].repeat_interleave(v, 0).to(device), s.to(device))


def chosen(model: PatronusModule, prototypes: Sequence[int] | None) -> list[int]:
    """The prototypes asked for; all for None.

    Raises:
        InvalidOptionError: one that does not exist.
    """
    count = model.prototypes.count
    indices = list(range(count)) if prototypes is None else [int(j) for j in prototypes]
    for j in indices:
        if not 0 <= j < count:
            raise InvalidOptionError(f"there is no prototype {j}; choose 0..{count - 1}")
    return indices


@dataclass(frozen=True)
class Edited:
    """What `edit` made.

    Attributes:
        images: (n, c, h, w) under the requested activations.
        reconstructions: (n, c, h, w) under their own, from the same noise: what to compare with.
        before: (n, m) activations of the original images.
        requested: (n, m).
        realised: (n, m) activations of the edited images, encoded again.
        round_trip_psnr: (n,) of the reconstructions, in dB.
        flagged: (n,) whether that is below `PSNR_FLOOR`: the edit starts from another image than the original.
    """

    images: Image
    reconstructions: Image
    before: Activations
    requested: Activations
    realised: Activations
    round_trip_psnr: Float[Tensor, " n"]
    flagged: Bool[Tensor, " n"]


@evaluating
def edit(
    model: PatronusModule,
    images: Image,
    s_new: Activations,
    steps: int = 20,
    sampler: Sampler = "dpm++",
    batch_size: int = 64,
) -> Edited:
    """Images as they would be with other activations: invert under their own, decode under the new.

    Args:
        model: the model.
        images: (n, c, h, w) in [-1, 1].
        s_new: (n, m), see `set_activations`.
        steps: of the inversion and of the sampler.
        sampler: of the edited image.
        batch_size: images at a time.
    """
    parts = take_apart(model, images, steps, batch_size)
    edited = put_together(model, parts.x_T, s_new, steps, sampler, batch_size)
    same = put_together(model, parts.x_T, parts.s, steps, sampler, batch_size)
    quality = psnr(same, parts.images)
    realised = encode(model, edited, batch_size)
    return Edited(edited, same, parts.s, s_new.cpu(), realised, quality, quality < PSNR_FLOOR)


@evaluating
def interpolate(
    model: PatronusModule,
    a: Image,
    b: Image,
    n: int = 10,
    steps: int = 20,
    sampler: Sampler = "dpm++",
    batch_size: int = 64,
) -> Float[Tensor, "n b c h w"]:
    """From one image to another in n pictures, the ends included: s linearly, x_T along the great circle.

    x_T(λ) = (sin((1-λ)θ) x_T^a + sin(λθ) x_T^b) / sin θ, θ the angle between the two (Song et al. 2021, eq. 67).
    """
    first, last = take_apart(model, a, steps, batch_size), take_apart(model, b, steps, batch_size)
    weights = torch.linspace(0, 1, n)
    s = torch.stack([torch.lerp(first.s, last.s, w) for w in weights])
    x_T = torch.stack([slerp(first.x_T, last.x_T, float(w)) for w in weights])
    pictures = put_together(model, x_T.flatten(0, 1), s.flatten(0, 1), steps, sampler, batch_size)
    return pictures.reshape(n, *a.shape)


def slerp(a: Float[Tensor, "b *shape"], b: Float[Tensor, "b *shape"], weight: float) -> Float[Tensor, "b *shape"]:
    """Spherical interpolation of each row; linear where the two are parallel."""
    u, v = a.flatten(1), b.flatten(1)
    angle = torch.acos(torch.cosine_similarity(u, v, dim=1).clamp(-1, 1))[:, None]
    left, right = torch.sin((1 - weight) * angle), torch.sin(weight * angle)
    straight = torch.sin(angle) < 1e-6
    mixed = torch.where(straight, torch.lerp(u, v, weight), (left * u + right * v) / torch.sin(angle))
    return mixed.reshape(a.shape)


@evaluating
def extrapolate(
    model: PatronusModule,
    images: Image,
    prototype: int,
    shares: Sequence[float] = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    steps: int = 20,
    sampler: Sampler = "dpm++",
    batch_size: int = 64,
) -> Float[Tensor, "v b c h w"]:
    """One prototype swept through and beyond its own range: s_j = low_j + share · (high_j - low_j)."""
    chosen(model, [prototype])
    parts = take_apart(model, images, steps, batch_size)
    low, high = model.activation_low.cpu(), model.activation_high.cpu()
    s = [set_activations(parts.s, [Change(prototype, "range", share)], low, high) for share in shares]
    x_T = parts.x_T.repeat(len(shares), 1, 1, 1)
    pictures = put_together(model, x_T, torch.cat(s), steps, sampler, batch_size)
    return pictures.reshape(len(shares), *images.shape)
