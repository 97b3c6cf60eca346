"""Taking one prototype back while a model trains, to see how much of the picture it changes."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from patronus_pl.modules.base import StepDraw
from patronus_pl.types import Activations

LESS = 0.1
"""Standard deviations by which another image must have less of a prototype for it to be taken back to that."""


class TakenBack(NamedTuple):
    """The first k images of a batch with one prototype each set to its value in another image, which has less of it.

    Attributes:
        condition: (k, m) standardised activations, all but one as they were.
        change: (k, m) by how much they were changed.
        prototype: (k,) which one.
        valid: (k,) whether the other image has less of any prototype; if not, the row is to be left out.
    """

    condition: Activations
    change: Activations
    prototype: Int[Tensor, " k"]
    valid: Bool[Tensor, " k"]

    @classmethod
    def of(cls, own: Float[Tensor, "b m"], other: Float[Tensor, "b m"], draw: StepDraw) -> "TakenBack":
        """Half of a batch.

        Args:
            own: standardised activations.
            other: those of another image for each row.
            draw: decides which of the prototypes that the other image has less of.
        """
        chance = draw.uniform(own.shape[1])
        k = len(own) // 2
        own, other, chance = own[:k], other[:k], chance[:k]
        less = other < own - LESS
        prototype = chance.where(less, -1.0).argmax(1, keepdim=True)
        condition = own.scatter(1, prototype, other.gather(1, prototype))
        return cls(condition, condition - own, prototype[:, 0], less.any(1))
