"""`Masks`: which prototypes the denoiser is told in training."""

from jaxtyping import Bool, Float
from torch import Tensor

from patronus_pl.errors import InvalidOptionError

NOTHING = 0.2
"""Share of the masked images of which the denoiser is told nothing."""


class Masks:
    """Withhold prototypes from the denoiser at random, so that it paints under any subset of them.

    A masked image has a rate r of its own, and each of its prototypes is withheld with that probability:
    r = min(1, v / (1 - 0.2)), v uniform in [0, 1). A fifth of the masked images are told nothing at all, since the
    prediction without any condition is the most used one.

    Args:
        share: share of the images in a batch that are masked; the others are told everything. At 0.5 planted faces were
            reconstructed worse, and fewer of their attributes were read by a single prototype.
        start: optimiser steps before masking begins.

    Raises:
        InvalidOptionError: a share outside (0, 1], or a negative start.
    """

    def __init__(self, share: float = 0.3, start: int = 0) -> None:
        if not 0 < share <= 1:
            raise InvalidOptionError(f"model.masks.share is {share}; choose above 0 and at most 1, or model.masks null")
        if start < 0:
            raise InvalidOptionError(f"model.masks.start is {start}; it must not be negative")
        self.share, self.start = share, start

    def keep(self, chance: Float[Tensor, "b m2"], number: int) -> Bool[Tensor, "b m"]:
        """Return which prototypes each image's denoiser is told.

        Args:
            chance: (b, m + 2) uniform numbers in [0, 1).
            number: optimiser steps taken before this one.
        """
        masked, rate = chance[:, :1] < self.share, (chance[:, 1:2] / (1 - NOTHING)).clamp_max(1)
        told: Tensor = (chance[:, 2:] >= rate) | ~masked
        return told if number >= self.start else told | True
