"""`PlantedFaces`: cartoon portraits of which every attribute and the part of every pixel are known."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.base import SPLITS, ImageDataModule
from patronus_pl.data.image_table import ImageTable
from patronus_pl.data.portraits import MAX_SHIFT, PARTS, portraits
from patronus_pl.errors import InvalidOptionError

GROUPS: dict[str, dict[str, float]] = {
    "hair colour": {"Black_Hair": 0.5, "Brown_Hair": 0.25, "Blond_Hair": 0.25},
    "hair style": {"Long_Hair": 1 / 3, "Curly_Hair": 1 / 3, "Short_Hair": 1 / 3},
    "skin": {"Pale_Skin": 1 / 3, "Dark_Skin": 1 / 3},
}
"""Groups of attributes of which at most one holds, with the probability of each."""

FREE: dict[str, float] = {
    "Smiling": 0.5,
    "Eyeglasses": 0.5,
    "Wearing_Hat": 0.4,
    "Wearing_Red": 0.5,
    "Bright_Background": 0.5,
    "Large_Head": 0.5,
}
"""Attributes that hold independently, with the probability of each."""

GLOBAL = ("Pale_Skin", "Dark_Skin", "Bright_Background", "Large_Head")
MARGINALS = {**{name: p for group in GROUPS.values() for name, p in group.items()}, **FREE}
ATTRIBUTES = (*(name for name in MARGINALS if name not in GLOBAL), *GLOBAL)
ATTRIBUTE_PART = {
    **{name: "hair" for group in ("hair colour", "hair style") for name in GROUPS[group]},
    "Smiling": "mouth",
    "Eyeglasses": "glasses",
    "Wearing_Hat": "hat",
    "Wearing_Red": "shirt",
}
"""The part of the picture that shows each local attribute."""

TINT = 0.03
"""Colours vary by up to this fraction."""

FIRST_INDEX = {"train": 0, "val": 2**32, "test": 2**33}


class Portraits(NamedTuple):
    """Portraits as `draw` returns them: pixels, attributes, and the part of each pixel."""

    images: NDArray[np.uint8]
    """(n, 3, h, w)"""
    attributes: NDArray[np.float32]
    """(n, a) in the order of `ATTRIBUTES`, 0 or 1."""
    parts: NDArray[np.uint8]
    """(n, h, w): index in `PARTS` of the part that each pixel shows."""

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Return the visible pixels of each part, (n, parts, h, w); every pixel belongs to one part."""
        masks: NDArray[np.bool_] = self.parts[:, None] == np.arange(len(PARTS), dtype=np.uint8)[:, None, None]
        return masks


# ---- random numbers --------------------------------------------------------------------------------------------------

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ / golden ratio: the step of SplitMix64."""


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64 bits by the output function of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    z: NDArray[np.uint64] = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniform(seed: int, indices: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1), (n, count), that depend on (seed, index, column) alone, on every machine."""
    start = splitmix64(np.array([seed % 2**64], np.uint64) + GOLDEN)
    rows = splitmix64(start ^ splitmix64(indices + GOLDEN))
    columns = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    numbers: NDArray[np.float64] = (splitmix64(rows[:, None] + columns) >> np.uint64(11)) * 2.0**-53
    return numbers


# ---- correlation -----------------------------------------------------------------------------------------------------


class Tie(NamedTuple):
    """`child` depends on `parent`, and occurs as often as if it did not.

    With p and q, how often parent and child occur, and κ = √(q(1−q) / (p(1−p))),

        P(child = 1 | parent = a) = q + ρ κ (a − p)

    has mean q and gives φ(parent, child) = ρ.
    """

    parent: str
    child: str
    rho: float

    @property
    def slope(self) -> float:
        """κ."""
        p, q = MARGINALS[self.parent], MARGINALS[self.child]
        return float((q * (1 - q) / (p * (1 - p))) ** 0.5)

    @property
    def reachable(self) -> tuple[float, float]:
        """Return the lowest and highest ρ for which both conditional probabilities lie in [0, 1]."""
        p, q = MARGINALS[self.parent], MARGINALS[self.child]
        present, absent = self.slope * (1 - p), self.slope * p
        return -min(q / present, (1 - q) / absent), min((1 - q) / present, q / absent)

    def chance(self, parent: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return P(child = 1) for each value of the parent."""
        p, q = MARGINALS[self.parent], MARGINALS[self.child]
        return np.where(parent, q + self.rho * self.slope * (1 - p), q - self.rho * self.slope * p)


def _parse(pair: str, rho: float) -> Tie:
    names = [name.strip() for name in pair.split(",")]
    if len(names) != 2 or names[0] == names[1]:
        raise InvalidOptionError(
            f"data.correlation has the key {pair!r}; write two attributes, as in 'Black_Hair,Smiling'"
        )
    for name in names:
        if name not in MARGINALS:
            raise InvalidOptionError(f"data.correlation names {name!r}; the attributes are {', '.join(ATTRIBUTES)}")
    parent, child = names if names[1] in FREE else names[::-1]
    if child not in FREE:
        raise InvalidOptionError(
            f"data.correlation {pair!r} ties two attributes that belong to groups; one must be of {', '.join(FREE)}"
        )
    return _within_reach(Tie(parent, child, float(rho)))


def _within_reach(tie: Tie) -> Tie:
    low, high = tie.reachable
    if not low - 1e-9 <= tie.rho <= high + 1e-9:
        raise InvalidOptionError(
            f"data.correlation '{tie.parent},{tie.child}' is {tie.rho:g}; "
            f"with how often each occurs it must lie in [{low:.3f}, {high:.3f}]"
        )
    return tie


def ties(correlation: dict[str, float] | None) -> list[Tie]:
    """Return the pairs of `correlation` in an order in which every parent comes before its child."""
    pending = [_parse(pair, rho) for pair, rho in (correlation or {}).items()]
    children = [tie.child for tie in pending]
    for child in children:
        if children.count(child) > 1:
            raise InvalidOptionError(f"data.correlation ties {child} twice; keep one pair in which it comes second")
    ordered: list[Tie] = []
    while pending:
        waiting = {tie.child for tie in pending}
        ready = [tie for tie in pending if tie.parent not in waiting]
        if not ready:
            raise InvalidOptionError(
                f"data.correlation goes in a circle through {', '.join(sorted(waiting))}; drop a pair"
            )
        ordered += ready
        pending = [tie for tie in pending if tie not in ready]
    return ordered


# ---- drawing ---------------------------------------------------------------------------------------------------------


def _attributes(chance: NDArray[np.float64], tied: list[Tie]) -> dict[str, NDArray[np.bool_]]:
    """Return which attributes hold, from one column of random numbers per group and free attribute."""
    held: dict[str, NDArray[np.bool_]] = {}
    for u, group in zip(chance[:, : len(GROUPS)].T, GROUPS.values(), strict=True):
        low = 0.0
        for name, p in group.items():
            held[name], low = (low <= u) & (u < low + p), low + p
    columns = dict(zip(FREE, chance[:, len(GROUPS) :].T, strict=True))
    for name, p in FREE.items():
        held[name] = columns[name] < p
    for tie in tied:
        held[tie.child] = columns[tie.child] < tie.chance(held[tie.parent])
    return held


def _draw_chunk(indices: NDArray[np.uint64], seed: int, size: int, tied: list[Tie]) -> Portraits:
    causes = len(GROUPS) + len(FREE)
    chance = uniform(seed, indices, causes + 5)
    held = _attributes(chance[:, :causes], tied)
    nuisance = (2 * chance[:, causes:] - 1).astype(np.float32)
    shift, tint = nuisance[:, 0] * np.float32(MAX_SHIFT), 1 + nuisance[:, 1:] * np.float32(TINT)
    images, parts = portraits(held, shift, tint, size)
    return Portraits(images, np.stack([held[name] for name in ATTRIBUTES], 1).astype(np.float32), parts)


def draw(
    indices: Sequence[int] | NDArray[np.integer[Any]],
    seed: int = 0,
    size: int = 32,
    correlation: dict[str, float] | None = None,
) -> Portraits:
    """Draw portraits by index: portrait i depends on `seed`, `size`, `correlation` and i alone.

    Args:
        indices: n whole numbers from 0 to 2⁶⁴ − 1.
        seed: another seed gives other portraits.
        size: height and width in pixels.
        correlation: φ of pairs of attributes, as `PlantedFaces` takes it.

    Raises:
        InvalidOptionError: `correlation` names an unknown attribute or asks for what the marginals cannot give.
    """
    tied = ties(correlation)
    everyone = np.asarray(indices, np.uint64)
    step = max(1, 64 * 32 * 32 // size**2)  # small enough for the caches, large enough to hide NumPy's calls
    starts = range(0, max(1, len(everyone)), step)
    chunks = [_draw_chunk(everyone[start : start + step], seed, size, tied) for start in starts]
    return Portraits(*(np.concatenate(arrays) for arrays in zip(*chunks, strict=True)))


class PlantedFaces(ImageDataModule):
    """Cartoon portraits, drawn when they are asked for, with their attributes and masks of their parts.

    Image i of a split depends on `seed` and i alone. Local attributes (hair, smile, glasses, hat, shirt) change one
    part of the picture; global ones (skin, background, head size) change much of it.

    Args:
        image_size: height and width in pixels; any.
        train_size: training images.
        val_size: validation images.
        test_size: test images.
        correlation: `{"Black_Hair,Smiling": 0.8}` plants a correlation φ ∈ [-1, 1] between two attributes and leaves
            how often each occurs as it was. One of the two must be Smiling, Eyeglasses, Wearing_Hat, Wearing_Red,
            Bright_Background or Large_Head; it (the second, if both are) then depends on the other.

    Raises:
        InvalidOptionError: a size below 1, or a correlation that names an unknown attribute or cannot be reached.
    """

    attribute_names = ATTRIBUTES
    attribute_kind = tuple("global" if name in GLOBAL else "local" for name in ATTRIBUTES)
    part_names = PARTS
    attribute_part = ATTRIBUTE_PART

    def __init__(
        self,
        image_size: int = 32,
        train_size: int = 20000,
        val_size: int = 2000,
        test_size: int = 5000,
        correlation: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(None, image_size, **kwargs)
        self.sizes = dict(zip(SPLITS, (train_size, val_size, test_size), strict=True))
        for split, count in self.sizes.items():
            if count < 1:
                raise InvalidOptionError(f"data.{split}_size is {count}; it must be at least 1")
        ties(correlation)
        self.correlation = correlation
        self.image_shape = (3, image_size, image_size)

    def load(self, split: str) -> ImageTable:
        """Return one split, drawn now."""
        count = self.sizes[split]
        if self.limit is not None and self.bias is None:  # a trial of 64 images need not wait for 20,000
            count = min(count, self.limit)
        drawn = self._draw(FIRST_INDEX[split] + np.arange(count))
        return ImageTable(drawn.images, drawn.attributes, [f"{split}-{i:06d}" for i in range(count)])

    def masks(self, split: str, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Return which pixels show each of `part_names` in n rows of `table(split)`, (n, parts, h, w)."""
        ids = self.table(split).ids
        return self._draw([FIRST_INDEX[split] + int(ids[row].rpartition("-")[2]) for row in rows]).masks

    def attribute_masks(self, split: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the pixels of the part that shows each attribute, (k, a, h, w); none for global attributes."""
        parts = self.masks(split, rows)
        masks = np.zeros((len(rows), len(self.attribute_names), *parts.shape[2:]), dtype=np.bool_)
        for name, part in self.attribute_part.items():
            masks[:, self.attribute_names.index(name)] = parts[:, self.part_names.index(part)]
        return masks

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the images, the planted correlation included."""
        correlation = {f"{tie.parent},{tie.child}": tie.rho for tie in ties(self.correlation)}
        return {**super().describe(), "sizes": self.sizes, "correlation": correlation}

    def _draw(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Portraits:
        return draw(indices, self.seed, self.image_size, self.correlation)
