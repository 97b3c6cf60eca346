"""`TrainingStep`: all that a penalty may look at, and `paint`, which makes the edits that some of them judge."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patronus_pl.diffusion import Denoiser
from patronus_pl.prototypes import PrototypeLayer, ReceptiveField
from patronus_pl.types import Activations, Image, SimilarityMap, Timesteps

LESS = 0.1
"""Standard deviations by which another image must have less of a prototype for it to be taken back to that."""


@dataclass(frozen=True)
class Edit:
    """The k noisiest images of a batch, in each of which one prototype takes its value in another image.

    Attributes:
        prototype: (k,) which prototype is taken back.
        change: (k, m) by how much the standardised activations change; 0 but for that prototype.
        valid: (k,) whether the other image has less of any prototype. Rows where it has not are to be left out.
        similarity: (k, m, rows, cols) of the patches of the real images to the prototypes.
        before: (k, c, h, w) x̂_0 under the images' own activations.
        after: (k, c, h, w) x̂_0 with the prototype taken back.
    """

    prototype: Int[Tensor, " k"]
    change: Activations
    valid: Bool[Tensor, " k"]
    similarity: SimilarityMap
    before: Image
    after: Image


@dataclass(frozen=True)
class TrainingStep:
    """One step of training, as the penalties see it.

    Attributes:
        number: optimiser steps taken before this one.
        activations: (all, m) prototype activations `s` of the batches of all ranks, with gradients.
        attributes: (all, a) attributes of the same images, 0, 1 or NaN (unknown); None unless a penalty asks for them.
        prototypes: the prototype layer.
        receptive_field: where the patches of the encoder lie.
        read: Return the standardised activations of pictures, (k, c, h, w) in [-1, 1] → (k, m).
        edit: what becomes of half of the pictures as one prototype is taken back; None unless a penalty asks for it.
    """

    number: int
    activations: Float[Tensor, "all m"]
    attributes: Float[Tensor, "all a"] | None
    prototypes: PrototypeLayer
    receptive_field: ReceptiveField
    read: Callable[[Image], Activations]
    edit: Edit | None

    @property
    def edited(self) -> Edit:
        """The edit, which is there if the objective has a penalty with `judges_edits`."""
        if self.edit is None:
            raise ValueError("this step has no edit; set `judges_edits` on the penalty that looks at it")
        return self.edit


class Painted(NamedTuple):
    """What the denoiser paints in one step: the batch, and its edited half once more.

    Attributes:
        clean: (b, c, h, w) x̂_0 of the whole batch.
        prototype: (k,) see `Edit`; k is 0 where no penalty judges edits.
        change: (k, m) see `Edit`.
        valid: (k,) see `Edit`.
        after: (k, c, h, w) x̂_0 with the prototype taken back.
    """

    clean: Image
    prototype: Int[Tensor, " k"]
    change: Activations
    valid: Bool[Tensor, " k"]
    after: Image

    def edit(self, similarity: SimilarityMap) -> Edit | None:
        """Return the edit, given the similarity maps of the batch; None if there is none."""
        k = len(self.after)
        found = Edit(self.prototype, self.change, self.valid, similarity[:k], self.clean[:k], self.after)
        return found if k else None


def paint(
    under: Callable[[Activations, Bool[Tensor, "rows m"] | None], Denoiser],
    condition: Float[Tensor, "b m"],
    other: Float[Tensor, "b m"],
    x_t: Image,
    t: Timesteps,
    chance: Float[Tensor, "b m"],
    keep: Bool[Tensor, "b m"] | None,
    k: int,
) -> Painted:
    """Paint a batch, and its first k images once more with one prototype of each taken back, all in one pass.

    Args:
        under: Return the denoiser under a condition and a mask.
        condition: (b, m) standardised activations of the images.
        other: (b, m) those of another image for each row.
        x_t: noisy images.
        t: their timesteps.
        chance: (b, m) uniform numbers, see `take_back`.
        keep: (b, m) which prototypes the denoiser is told; None for all. The edited one is told in any case.
        k: images that are edited.
    """
    own = condition[:k]
    changed, prototype, valid = take_back(own, other[:k], chance[:k])
    if keep is not None:
        told = keep[:k].scatter(1, prototype[:, None], True)  # the same before and after the edit
        keep = torch.cat([told, keep[k:], told])
    denoise = under(torch.cat([condition, changed]), keep)
    clean = denoise(torch.cat([x_t, x_t[:k]]), torch.cat([t, t[:k]]))
    return Painted(clean[: len(x_t)], prototype, changed - own, valid, clean[len(x_t) :])


def take_back(
    own: Float[Tensor, "k m"], other: Float[Tensor, "k m"], chance: Float[Tensor, "k m"]
) -> tuple[Float[Tensor, "k m"], Int[Tensor, " k"], Bool[Tensor, " k"]]:
    """Set one prototype of each image to its value in another image, which has less of it.

    Args:
        own: (k, m) standardised activations of the images.
        other: (k, m) those of another image for each row.
        chance: (k, m) random numbers in [0, 1): of the prototypes that the other image has less of, the one with the
            largest number is chosen.

    Returns:
        The changed activations (k, m), which prototype it was (k,), and whether there was any to take back (k,).
    """
    less = other < own - LESS
    prototype = chance.where(less, -1.0).argmax(1, keepdim=True)
    return own.scatter(1, prototype, other.gather(1, prototype)), prototype[:, 0], less.any(1)
