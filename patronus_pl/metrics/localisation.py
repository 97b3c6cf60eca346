"""Pointing game: how often the patch of a prototype lies on a part of the object, compared with chance."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from scipy.stats import binomtest
from torch import Tensor

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics.tables import as_array, as_float64

Points = Shaped[np.ndarray, "_ 2"] | Shaped[Tensor, "_ 2"]
"""One point a row: its row and column in pixels; NumPy or torch."""
PartMasks = Shaped[np.ndarray, "_ h w"] | Shaped[Tensor, "_ h w"]
"""True (or nonzero) where the part is; NumPy or torch."""


@dataclass(frozen=True)
class PointingGame:
    """What `pointing_game` found.

    Attributes:
        hit_rate: share of the images with the part in which the point lies on it; NaN if no image shows the part.
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
    """Count how often a patch's centre lies on the part, over the images that show the part (Zhang et al. 2018).

    Args:
        points: row and column of the patch's centre in each image, shape (n, 2), in pixels from 0; halves round to
            even.
        masks: shape (n, h, w), nonzero where the part is in each image.
        centres: all centres that a patch can have, shape (k, 2), from which `base_rate` draws; None: every pixel.

    Raises:
        InvalidOptionError: the numbers of images differ, or a point lies outside the image.

    Example:
        >>> import numpy as np
        >>> masks = np.zeros((2, 4, 4))
        >>> masks[:, 0, 0] = 1
        >>> found = pointing_game(np.array([[0, 0], [3, 3]]), masks)
        >>> found.hit_rate, found.base_rate, found.images
        (0.5, 0.0625, 2)
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
