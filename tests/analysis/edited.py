"""Images inverted, decoded and edited in one call, for tests of what explanations make of them."""

from collections.abc import Sequence

from torch import Tensor

from patronus_pl.analysis.editing.decoding import decode
from patronus_pl.analysis.editing.inverting import Inverted, invert
from patronus_pl.analysis.editing.jobs import TurnedUp, turn_up
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.modules import PatronusModule


def inverted_and_back(model: PatronusModule, images: Tensor, sampling: Sampling) -> tuple[Inverted, Tensor]:
    """Return the inverted images, and the same decoded unedited."""
    inverted = invert(model, images, sampling)
    return inverted, decode(model, inverted.x_T, inverted.s, sampling)


def turned_up(
    model: PatronusModule, images: Tensor, sampling: Sampling, prototypes: Sequence[int] | None = None
) -> TurnedUp:
    """Return the images with each prototype turned up."""
    return turn_up(model, *inverted_and_back(model, images, sampling), prototypes, sampling)
