"""Draw every plain portrait that `PlantedFaces` can draw, once, without tint or shift, as templates for a judge."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.hands import PLAIN
from patronus_pl.data.planted_attributes import ATTRIBUTES, FREE, GROUPS, rare_marginals
from patronus_pl.data.portraits import Look, portraits


def every_portrait(size: int, rarity: Sequence[float] | None = None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return all combinations of attributes: 3 hair colours × 3 hair styles × 3 skins × 2⁶ free attributes = 1,728.

    Args:
        size: height and width in pixels.
        rarity: as `PlantedFaces` takes it. With it, a portrait may have none of the hair colours and styles: 3,072.

    Returns:
        Images, uint8 (k, 3, size, size), and their attributes, float32 (k, a) in the order of `ATTRIBUTES`.
    """
    marginals = rare_marginals(rarity)
    # At most one attribute of a group holds; none does only where the chances of its members leave room for that.
    answers = [
        [*({name} for name in group), *([set()] if sum(marginals[name] for name in group) < 1 - 1e-9 else [])]
        for group in GROUPS.values()
    ]
    held = [set().union(*choice) for choice in product(*answers, *([set(), {name}] for name in FREE))]
    has = {name: np.array([name in names for names in held]) for name in ATTRIBUTES}
    k = len(held)
    look = Look(np.zeros(k, np.float32), np.ones((k, 4), np.float32), np.zeros(k, np.float32))
    images, _ = portraits(PLAIN, has, look, size)
    return images, np.stack([has[name] for name in ATTRIBUTES], axis=1).astype(np.float32)
