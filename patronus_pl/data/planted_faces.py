"""`PlantedFaces`: cartoon portraits of which every attribute and the part of every pixel are known."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.base import SPLITS, ImageDataModule
from patronus_pl.data.camera import NUMBERS, grain, lit, pose, scene
from patronus_pl.data.hands import HANDS
from patronus_pl.data.image_table import ImageTable
from patronus_pl.data.planted_attributes import (
    ATTRIBUTES,
    CAUSES,
    GLOBAL,
    GROUPS,
    Tie,
    hold,
    rare_marginals,
    ties,
    uniform,
)
from patronus_pl.data.portraits import MAX_SHIFT, PARTS, Look, as_levels, paint
from patronus_pl.errors import InvalidOptionError

Style = Literal["plain", "ink", "pastel", "block", "fine", "mixed"]

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


# ---- drawing ---------------------------------------------------------------------------------------------------------


class Drawing(NamedTuple):
    """Everything that decides a portrait besides its index."""

    seed: int
    size: int
    tied: list[Tie]
    marginals: Mapping[str, float]
    hands: tuple[str, ...]
    photographic: bool


def _draw_chunk(indices: NDArray[np.uint64], how: Drawing) -> Portraits:
    # The columns: causes, shift and four tints; then hue and hand; then the photograph's. More change none before them.
    more = NUMBERS if how.photographic else 0
    chance = uniform(how.seed, indices, CAUSES + 7 + more)
    held = hold(chance[:, :CAUSES], how.tied, how.marginals)
    nuisance = (2 * chance[:, CAUSES:] - 1).astype(np.float32)
    shift, tint = nuisance[:, 0] * np.float32(MAX_SHIFT), 1 + nuisance[:, 1:5] * np.float32(TINT)
    look = Look(shift, tint, chance[:, CAUSES + 5].astype(np.float32))
    numbers = nuisance[:, 7:]
    if how.photographic:
        look = look._replace(pose=pose(numbers), scene=scene(numbers, how.size))
    pixels, parts = _by_hands(held, look, (chance[:, CAUSES + 6] * len(how.hands)).astype(np.int64), how)
    if how.photographic:
        pixels = lit(pixels, numbers) + grain(how.seed, indices, numbers, how.size)
    return Portraits(as_levels(pixels), np.stack([held[name] for name in ATTRIBUTES], 1).astype(np.float32), parts)


def _by_hands(
    held: Mapping[str, NDArray[np.bool_]], look: Look, by: NDArray[np.int64], how: Drawing
) -> tuple[NDArray[np.floating[Any]], NDArray[np.uint8]]:
    """Paint each portrait by one of the hands: by[i] is the place of the hand in `how.hands`."""
    if len(how.hands) == 1:
        return paint(HANDS[how.hands[0]], held, look, how.size)
    pixels = np.empty((len(by), 3, how.size, how.size), np.float32)
    parts = np.empty((len(by), how.size, how.size), np.uint8)
    for k, hand in enumerate(how.hands):
        rows = np.flatnonzero(by == k)
        some = {name: values[rows] for name, values in held.items()}
        pixels[rows], parts[rows] = paint(HANDS[hand], some, look.take(rows), how.size)
    return pixels, parts


def _hands(style: str) -> tuple[str, ...]:
    """Return the hands that draw in a style."""
    if style != "mixed" and style not in HANDS:
        raise InvalidOptionError(f"data.style is {style!r}; choose one of {', '.join(HANDS)}, mixed")
    return tuple(HANDS) if style == "mixed" else (style,)


def draw(
    indices: Sequence[int] | NDArray[np.integer[Any]],
    seed: int = 0,
    size: int = 32,
    correlation: dict[str, float] | None = None,
    rarity: Sequence[float] | None = None,
    style: str = "plain",
    photographic: bool = False,
) -> Portraits:
    """Draw portraits by index: portrait i depends on i and on the other arguments alone.

    Args:
        indices: n whole numbers from 0 to 2⁶⁴ − 1.
        seed: another seed gives other portraits.
        size: height and width in pixels.
        correlation: φ of pairs of attributes, as `PlantedFaces` takes it.
        rarity: least and greatest frequency of an attribute, as `PlantedFaces` takes it.
        style: the hand that draws, or `mixed`.
        photographic: pose the portraits, and photograph them.

    Raises:
        InvalidOptionError: `correlation` names an unknown attribute or asks for what the marginals cannot give;
            `rarity` or `style` are not what they may be.
    """
    marginals = rare_marginals(rarity)
    how = Drawing(seed, size, ties(correlation, marginals), marginals, _hands(style), photographic)
    everyone = np.asarray(indices, np.uint64)
    step = max(1, 64 * 32 * 32 // size**2)  # small enough for the caches, large enough to hide NumPy's calls
    step *= len(how.hands)
    starts = range(0, max(1, len(everyone)), step)
    chunks = [_draw_chunk(everyone[start : start + step], how) for start in starts]
    return Portraits(*(np.concatenate(arrays) for arrays in zip(*chunks, strict=True)))


class PlantedFaces(ImageDataModule):
    """Cartoon portraits, drawn when they are asked for, with their attributes and masks of their parts.

    Image i of a split depends on i, `seed` and how it is drawn alone. Local attributes (hair, smile, glasses, hat,
    shirt) change one part of the picture; global ones (skin, background, head size) change much of it.

    Args:
        image_size: height and width in pixels; any.
        train_size: training images.
        val_size: validation images.
        test_size: test images.
        correlation: `{"Black_Hair,Smiling": 0.8}` plants a correlation φ ∈ [-1, 1] between two attributes and leaves
            how often each occurs as it was. One of the two must be Smiling, Eyeglasses, Wearing_Hat, Wearing_Red,
            Bright_Background or Large_Head; it (the second, if both are) then depends on the other.
        rarity: `[0.03, 0.15]` makes every attribute rare: the 14 frequencies lie between these two, evenly on a
            logarithmic scale. At most 1/3. Without it, attributes hold in a quarter to a half of the images.
        style: who draws. `plain` fills large features; `ink` outlines thickly, with dots, lines and arcs; `pastel` has
            long heads, thin square spectacles and chords for smiles; `block` is made of rectangles; `fine` has thin
            lines, large eyes and round thin spectacles. All but `plain` draw backgrounds of any hue. `mixed` draws
            each image by one of the five. Attributes and parts are the same.
        photographic: turn, move and scale each portrait a little, vary its background, and add uneven light, texture,
            blur and noise. Masks follow the pose.

    Raises:
        InvalidOptionError: a size below 1; a correlation that names an unknown attribute or cannot be reached; a rarity
            that is not two frequencies; an unknown style.
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
        rarity: tuple[float, float] | None = None,
        style: Style = "plain",
        photographic: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(None, image_size, **kwargs)
        self.sizes = dict(zip(SPLITS, (train_size, val_size, test_size), strict=True))
        for split, count in self.sizes.items():
            if count < 1:
                raise InvalidOptionError(f"data.{split}_size is {count}; it must be at least 1")
        ties(correlation, rare_marginals(rarity))
        _hands(style)
        self.correlation, self.rarity, self.style, self.photographic = correlation, rarity, style, photographic
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
        tied = ties(self.correlation, rare_marginals(self.rarity))
        return {
            **super().describe(),
            "sizes": self.sizes,
            "correlation": {f"{tie.parent},{tie.child}": tie.rho for tie in tied},
            "rarity": None if self.rarity is None else list(self.rarity),
            "style": self.style,
            "photographic": self.photographic,
        }

    def _draw(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Portraits:
        return draw(indices, self.seed, self.image_size, self.correlation, self.rarity, self.style, self.photographic)
