"""Draw every portrait that `PlantedFaces` can draw, once, without tint or shift, as templates for an exact judge."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.planted_faces import ATTRIBUTES, FREE, GROUPS
from patronus_pl.data.portraits import portraits


def every_portrait(size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return all 1,728 combinations: 3 hair colours × 3 hair styles × 3 skins × 2⁶ free attributes.

    Args:
        size: height and width in pixels.

    Returns:
        Images, uint8 (1728, 3, size, size), and their attributes, float32 (1728, a) in the order of `ATTRIBUTES`.
    """
    # At most one attribute of a group holds; none does only where the chances of its members leave room for that.
    answers = [
        [*({name} for name in group), *([set()] if sum(group.values()) < 1 - 1e-9 else [])] for group in GROUPS.values()
    ]
    held = [set().union(*choice) for choice in product(*answers, *([set(), {name}] for name in FREE))]
    has = {name: np.array([name in names for names in held]) for name in ATTRIBUTES}
    k = len(held)
    images, _ = portraits(has, np.zeros(k, np.float32), np.ones((k, 4), np.float32), size)
    return images, np.stack([has[name] for name in ATTRIBUTES], axis=1).astype(np.float32)
