"""Does a prototype look at the part it speaks of? The pointing game, against chance."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from scipy.stats import binomtest
from torch import Tensor

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics.latent_quality import as_array, as_float64

Points = Shaped[np.ndarray, "_ 2"] | Shaped[Tensor, "_ 2"]
"""(row, column) in pixels, a point a row; NumPy or torch."""
PartMasks = Shaped[np.ndarray, "_ h w"] | Shaped[Tensor, "_ h w"]
"""True (or nonzero) where the part is; NumPy or torch."""


@dataclass(frozen=True)
class PointingGame:
    """What `pointing_game` found.

    Attributes:
        hit_rate: share of the images with the part in which the point lies on it; NaN when the part is never visible.
        low: lower end of the 95 % Wilson interval of the hit rate.
        high: its upper end.
        base_rate: hit rate of a point drawn at random from the possible ones.
        images: number of images in which the part is visible.
    """

    hit_rate: float
    low: float
    high: float
    base_rate: float
    images: int


def pointing_game(points: Points, masks: PartMasks, centres: Points | None = None) -> PointingGame:
    """How often a prototype's patch centre lies on the part, over the images that show it (Zhang et al. 2018).

    Args:
        points: (n, 2) row and column of the patch centre in each image, in pixels from 0; halves round to even.
        masks: (n, h, w), where the part is in each image.
        centres: (k, 2) all centres that a patch can have, of which `base_rate` draws; None: every pixel.

    Raises:
        InvalidOptionError: numbers of images that differ, or a point outside the image.
    """
    present = as_array(masks) != 0
    if len(points) != len(present):
        raise InvalidOptionError(f"{len(points)} points but {len(present)} masks; give one of each an image")
    rows, columns = _pixels(points, present.shape[1:])
    hits = present[np.arange(len(present)), rows, columns]
    visible = present.any(axis=(1, 2))
    if not visible.any():
        return PointingGame(np.nan, np.nan, np.nan, np.nan, 0)
    candidates = present[visible]
    if centres is not None:
        r, c = _pixels(centres, present.shape[1:])
        candidates = candidates[:, r, c]
    test = binomtest(int(hits[visible].sum()), int(visible.sum()))
    low, high = test.proportion_ci(method="wilson")
    return PointingGame(float(test.statistic), float(low), float(high), float(candidates.mean()), int(visible.sum()))


def _pixels(points: Points, size: tuple[int, ...]) -> tuple[Shaped[np.ndarray, " _"], Shaped[np.ndarray, " _"]]:
    pixels = np.rint(as_float64(points)).astype(np.int64)
    outside = np.flatnonzero(((pixels < 0) | (pixels >= size)).any(axis=1))
    if len(outside):
        raise InvalidOptionError(
            f"point {pixels[outside[0]].tolist()} lies outside an image of {size}; clip its patch first"
        )
    return pixels[:, 0], pixels[:, 1]
