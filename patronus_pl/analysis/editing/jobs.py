"""Edits of many prototypes in many images, a batch at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.analysis.disk_array import DiskArray
from patronus_pl.analysis.editing.changes import chosen
from patronus_pl.analysis.editing.inverting import Inverted
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion import Guidance, Sampling
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image


class Job(NamedTuple):
    """A batch of k (prototype, image) pairs with v values each: k·v pictures to decode, pair by pair."""

    prototype: Int[Tensor, " k"]
    """Positions in the list of prototypes, not their indices in the model."""
    image: Int[Tensor, " k"]
    """Rows of the inverted images."""
    x_T: Float[Tensor, "kv c h w"]
    s: Float[Tensor, "kv m"]
    base: Float[Tensor, "kv m"]
    """The images' own activations, from which guidance starts."""


def jobs(
    inverted: Inverted, prototypes: Sequence[int], values: Float[Tensor, "p v"], batch_size: int, device: torch.device
) -> Iterator[Job]:
    """Yield every prototype set to each of its v values in every image; all other activations stay as they are.

    Args:
        inverted: n images.
        prototypes: p indices.
        values: (p, v) the activations that each prototype is set to.
        batch_size: pictures of a job; a job holds at least one pair with all its values.
        device: where `x_T`, `s` and `base` are wanted.
    """
    p, v = values.shape
    index = torch.tensor(prototypes)
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(len(inverted.s)))
    for which, image in (chunk.unbind(1) for chunk in torch.split(pairs, max(1, batch_size // v))):
        x_T, base = (rows[image].repeat_interleave(v, 0).to(device) for rows in (inverted.x_T, inverted.s))
        s = base.clone()
        s[torch.arange(len(s)), index[which].repeat_interleave(v)] = values[which].flatten().to(s)
        yield Job(which, image, x_T, s, base)


@dataclass(frozen=True)
class TurnedUp:
    """n images in which each of p prototypes is turned up to the high end of its own range; see `turn_up`.

    Attributes:
        prototypes: (p,) their indices.
        inverted: the n images, their activations and their noise.
        unedited: (n, c, h, w) the images decoded from the same noise under their own activations.
        pictures: (p, n or more, c, h, w) floats in [-1, 1], on disk: `pictures[p, k]` reads one.
        s: (p, n, m) activations of these pictures, encoded again.
        guidance: the weight under which they were decoded; None: without guidance.
    """

    prototypes: Int[Tensor, " p"]
    inverted: Inverted
    unedited: Image
    pictures: DiskArray
    s: Float[Tensor, "p n m"]
    guidance: Guidance | None = None

    def first(self, count: int) -> "TurnedUp":
        """Return the same for the first images only."""
        return replace(self, inverted=self.inverted.first(count), unedited=self.unedited[:count], s=self.s[:, :count])


@evaluating
def turn_up(
    model: PatronusModule,
    inverted: Inverted,
    unedited: Image,
    prototypes: Sequence[int] | None = None,
    sampling: Sampling = Sampling(),
    guidance: Guidance | None = None,
) -> TurnedUp:
    """Decode each image with each prototype turned up to the high end of its own range, everything else unchanged.

    Costs n · p images of `sampling.steps` steps each, and twice that under guidance.

    Args:
        model: the model, whose `activation_high` is the 98th percentile of its data.
        inverted: n images, inverted with the same steps.
        unedited: (n, c, h, w) the same images decoded under their own activations, as `decode` returns them.
        prototypes: p indices; None for all m.
        sampling: steps, sampler and batch size.
        guidance: weight by which each edit is exaggerated, one number or one for each of the m prototypes, as
            `calibrate` returns; None for no guidance.

    Raises:
        InvalidOptionError: a prototype that does not exist, or an impossible weight.
    """
    indices = chosen(model, prototypes)
    index, n = torch.tensor(indices), len(inverted.s)
    pictures = DiskArray((len(index), n, *unedited.shape[1:]), torch.float32)
    s = torch.zeros(len(index), n, model.prototypes.count)
    highest = model.activation_high.cpu()[index, None]
    for job in jobs(inverted, indices, highest, sampling.batch_size, model.device):
        x = model.decode(job.x_T, job.s, sampling.steps, sampling.sampler, base=job.base, guidance=guidance)
        s[job.prototype, job.image] = model.encode(x).to(s)
        for p, k, picture in zip(job.prototype.tolist(), job.image.tolist(), x.cpu(), strict=True):
            pictures[p, k] = picture
    return TurnedUp(index, inverted, unedited, pictures, s, guidance)
