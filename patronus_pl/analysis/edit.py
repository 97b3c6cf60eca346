"""Edits: set activations, keep the noise, decode; and how faithfully the picture follows.

An image is taken apart into its activations s and the noise x_T that DDIM inversion finds for it under s; what is
decoded from x_T under other activations is the edited image. Edits are sampled in few steps of DPM-Solver++.
All results are on the CPU.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.analysis.where import as_floats
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import psnr
from patronus_pl.modules import PatronusModule
from patronus_pl.modules.patronus import Sampler
from patronus_pl.types import Activations, Image, ImageBytes

PSNR_FLOOR = 25.0
"""Edits of images that come back from their own noise with less than this many dB are flagged."""


@dataclass(frozen=True)
class Change:
    """One prototype's new activation.

    Attributes:
        prototype: which.
        to: how `value` is meant. `absolute`: the activation itself; `range`: 0 is the low and 1 the high end of the
            prototype's own range, and beyond; `quantile`: of its activations in a reference set; `factor`: times what
            the image has; `remove`: the low end of its range.
        value: ignored by `remove`.
    """

    prototype: int
    to: Literal["absolute", "range", "quantile", "factor", "remove"]
    value: float = 0.0


def set_activations(
    s: Activations,
    changes: Sequence[Change],
    low: Float[Tensor, " m"],
    high: Float[Tensor, " m"],
    reference: Float[Tensor, "n m"] | None = None,
) -> Activations:
    """Activations after some changes, in their order; the others stay.

    Args:
        s: (b, m).
        changes: what to change.
        low: (m,) low end of each prototype's range: `model.activation_low`.
        high: (m,) its high end: `model.activation_high`.
        reference: (n, m) activations of a data set, which `quantile` needs.

    Raises:
        InvalidOptionError: a prototype that does not exist, an unknown kind of change, a quantile outside [0, 1] or
            without a reference.
    """
    s = s.clone()
    for change in changes:
        if not 0 <= change.prototype < s.shape[1]:
            raise InvalidOptionError(f"there is no prototype {change.prototype}; choose 0..{s.shape[1] - 1}")
        s[:, change.prototype] = _target(s, change, low.to(s), high.to(s), reference)
    return s


def _target(s: Tensor, change: Change, low: Tensor, high: Tensor, reference: Tensor | None) -> Tensor:
    j, value = change.prototype, change.value
    if change.to == "absolute":
        return torch.full_like(s[:, j], value)
    if change.to == "factor":
        return s[:, j] * value
    if change.to in ("range", "remove"):
        return (low + (value if change.to == "range" else 0.0) * (high - low))[j].expand(len(s))
    if change.to != "quantile":
        raise InvalidOptionError(f"unknown change {change.to!r}; choose absolute, range, quantile, factor or remove")
    if reference is None or not 0 <= value <= 1:
        raise InvalidOptionError(f"quantile {value} of prototype {j}: choose 0 to 1, and give reference activations")
    return reference[:, j].quantile(value).to(s).expand(len(s))


# ---- taking apart and putting together -------------------------------------------------------------------------------


class Parts(NamedTuple):
    """What images are made of."""

    images: Image
    """(n, c, h, w)"""
    s: Activations
    """(n, m)"""
    x_T: Image
    """The noise from which DDIM under s leads back to the images, see `no_louder_than_noise`."""


@evaluating
def take_apart(model: PatronusModule, images: Image, steps: int = 20, batch_size: int = 64) -> Parts:
    """Activations and inverted noise of images, which is no louder than noise is."""
    s, x_T = [], []
    for x in torch.split(images, batch_size):
        x = x.to(model.device)
        s.append(model.encode(x))
        # One fixed-point iteration a step costs no more than none, and comes back far closer.
        x_T.append(no_louder_than_noise(model.invert(x, s[-1], steps, refine=1)).cpu())
    return Parts(images.cpu(), torch.cat(s).cpu(), torch.cat(x_T))


def no_louder_than_noise(x_T: Image) -> Image:
    """Each row scaled down to the norm √d of Gaussian noise of d values, if it is above: x_T · min(1, √d / ‖x_T‖).

    A denoiser that trusts s more than x_t leaves the small rest x - x̂_0 in the noise, and √(1-ᾱ) of the first step
    divides it: x_T comes out several times as loud as any noise the denoiser was trained on. From there edits fall
    short, and in few steps even the way back is worse.
    """
    flat = x_T.flatten(1)
    loudness = flat.norm(dim=1) / flat.shape[1] ** 0.5
    scaled: Tensor = x_T / loudness.clamp_min(1.0)[:, None, None, None]
    return scaled


@evaluating
def put_together(
    model: PatronusModule,
    x_T: Image,
    s: Activations,
    steps: int = 20,
    sampler: Sampler = "dpm++",
    batch_size: int = 64,
) -> Image:
    """`model.decode`, some images at a time."""
    pairs = zip(torch.split(x_T, batch_size), torch.split(s, batch_size), strict=True)
    device = model.device
    return torch.cat([model.decode(x.to(device), c.to(device), steps, sampler).cpu() for x, c in pairs])


@evaluating
def encode(model: PatronusModule, images: Image | ImageBytes, batch_size: int = 64) -> Activations:
    """`model.encode`, some images at a time; (n, c, h, w) in [-1, 1] or as bytes."""
    return torch.cat([model.encode(as_floats(x.to(model.device))).cpu() for x in torch.split(images, batch_size)])


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
