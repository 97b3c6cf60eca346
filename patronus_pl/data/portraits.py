"""Draw cartoon portraits from signed distances. `PlantedFaces` chooses which attributes each portrait has.

Notation: the canvas is 32 × 32 units at any resolution, y points down; (u, v) are units in the frame of body or head,
with the chin at the origin; d(u, v) is the signed distance to the edge of a shape, negative inside. With k pixels a
unit and a frame of scale s, a shape of one colour is painted as

    coverage = clip(1/2 − d · s · k, 0, 1),    pixel ← pixel + coverage · opacity · (colour − pixel).

Only +, −, ×, ÷ and √ are used, which IEEE 754 rounds exactly: the same portrait has the same bytes on every machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32 at run time; the stubs widen float32 ∘ float
Flag = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

# ---- shapes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A signed distance d(u, v), negative inside, and the rectangle outside of which it is positive.

    `a & b`, `a | b` and `a - b` are intersection, union and difference.
    """

    left: float
    top: float
    right: float
    bottom: float
    distance: Callable[[Array, Array], Array]

    def __and__(self, other: "Shape") -> "Shape":
        corners = max(self.left, other.left), max(self.top, other.top)
        opposite = min(self.right, other.right), min(self.bottom, other.bottom)
        return Shape(*corners, *opposite, lambda u, v: np.maximum(self.distance(u, v), other.distance(u, v)))

    def __or__(self, other: "Shape") -> "Shape":
        corners = min(self.left, other.left), min(self.top, other.top)
        opposite = max(self.right, other.right), max(self.bottom, other.bottom)
        return Shape(*corners, *opposite, lambda u, v: np.minimum(self.distance(u, v), other.distance(u, v)))

    def __sub__(self, other: "Shape") -> "Shape":
        return self.bounded(lambda u, v: np.maximum(self.distance(u, v), -other.distance(u, v)))

    def bounded(self, distance: Callable[[Array, Array], Array], margin: float = 0.0) -> "Shape":
        """Return a shape with another distance, whose bounds are these, moved out by `margin`."""
        left, top, right, bottom = self.left - margin, self.top - margin, self.right + margin, self.bottom + margin
        return Shape(left, top, right, bottom, distance)

    def inset(self, depth: float) -> "Shape":
        """Return the part of the shape that lies deeper than `depth`."""
        return self.bounded(lambda u, v: self.distance(u, v) + depth, -depth)

    def outline(self, half_width: float) -> "Shape":
        """Return a stroke along the edge of the shape."""
        return self.bounded(lambda u, v: np.abs(self.distance(u, v)) - half_width, half_width)

    def mirrored(self) -> "Shape":
        """Return the part right of u = 0 together with its mirror image."""
        return Shape(-self.right, self.top, self.right, self.bottom, lambda u, v: self.distance(np.abs(u), v))

    def sheared(self, slope: float) -> "Shape":
        """Return the slanted shape: horizontal lines rise by `slope` per unit to the right."""
        rise = abs(slope) * max(abs(self.left), abs(self.right))
        top, bottom = self.top - rise, self.bottom + rise
        return Shape(self.left, top, self.right, bottom, lambda u, v: self.distance(u, v + slope * u))


def circles(centres: tuple[tuple[float, float], ...], r: float) -> Shape:
    """√(min over centres of (u−x)² + (v−y)²) − r."""
    (x0, y0), *others = centres

    def distance(u: Array, v: Array) -> Array:
        nearest = (u - x0) ** 2 + (v - y0) ** 2
        for x, y in others:
            np.minimum(nearest, (u - x) ** 2 + (v - y) ** 2, out=nearest)
        return np.sqrt(nearest) - r

    xs, ys = zip(*centres, strict=True)
    return Shape(min(xs) - r, min(ys) - r, max(xs) + r, max(ys) + r, distance)


def circle(x: float, y: float, r: float) -> Shape:
    """√((u−x)² + (v−y)²) − r."""
    return circles(((x, y),), r)


def ellipse(x: float, y: float, a: float, b: float) -> Shape:
    """(q² − q) / √((u−x)²/a⁴ + (v−y)²/b⁴) with q² = (u−x)²/a² + (v−y)²/b²: the distance, to first order at the edge."""

    def distance(u: Array, v: Array) -> Array:
        across, down = ((u - x) / a) ** 2, ((v - y) / b) ** 2
        square = across + down
        return (square - np.sqrt(square)) / (np.sqrt(across / a**2 + down / b**2) + 1e-6)

    return Shape(x - a, y - b, x + a, y + b, distance)


def box(x: float, y: float, a: float, b: float, r: float) -> Shape:
    """√(max(p, 0)² + max(q, 0)²) + min(max(p, q), 0) − r with p = |u−x| − a + r, q = |v−y| − b + r.

    Half width a, half height b, corners of radius r ≤ min(a, b).
    """

    def distance(u: Array, v: Array) -> Array:
        p, q = np.abs(u - x) - (a - r), np.abs(v - y) - (b - r)
        outside: Array = np.sqrt(np.maximum(p, 0) ** 2 + np.maximum(q, 0) ** 2)
        inside: Array = np.minimum(np.maximum(p, q), 0)
        return outside + inside - r

    return Shape(x - a, y - b, x + a, y + b, distance)


def above(y: float) -> Shape:
    """Return the half-plane above the level y."""
    return Shape(-inf, -inf, inf, y, lambda u, v: v - y)


# ---- portrait --------------------------------------------------------------------------------------------------------

PARTS = ("background", "shirt", "neck", "hair", "face", "eyes", "mouth", "glasses", "hat")
"""The parts that a pixel can show, in the order of masks."""

CANVAS = 32.0
CHIN_X, CHIN_Y, MAX_SHIFT = 16.0, 23.6, 0.4
LARGE, SMALL = 1.05, 0.84

PALETTE = {
    name: np.array([rgb], np.float32)
    for name, rgb in {
        "black": (38, 34, 46),
        "brown": (152, 84, 44),
        "blond": (240, 196, 88),
        "pale": (255, 226, 204),
        "medium": (226, 168, 124),
        "dark": (116, 72, 54),
        "bright": (250, 240, 218),
        "dim": (66, 110, 116),
        "red": (222, 54, 58),
        "blue": (58, 122, 186),
        "crown": (132, 66, 186),
        "brim": (98, 44, 146),
        "band": (252, 196, 72),
        "lips": (132, 28, 44),
        "teeth": (255, 252, 246),
        "closed": (120, 44, 52),
        "eye": (40, 32, 40),
        "glint": (255, 252, 246),
        "frame": (26, 24, 32),
        "lens": (214, 240, 252),
        "blush": (240, 110, 100),
    }.items()
}


class Layer(NamedTuple):
    """One shape of one colour, painted over the layers before it."""

    part: str
    colour: str
    shape: Shape
    where: str = "everyone"
    """An attribute: only portraits that have it get this layer."""
    on: str = "head"
    """The frame of the shape: `head`, which has two sizes, or `body`."""
    opacity: float = 1.0


SIDE_CURLS = ((9.0, -4.6), (9.3, -9.4))
TOP_CURLS = ((0.0, -18.3), (4.9, -17.1), (8.2, -13.8))
FOREHEAD_CURLS = ((1.9, -15.6), (5.4, -14.6))

SHORT_FRINGE = (ellipse(0, -9.8, 9.5, 9.6) & above(-6.9)) - box(0.5, -6.0, 6.5, 7.2, 3.2).sheared(0.18)
PARTED_FRINGE = (ellipse(0, -9.2, 9.2, 10.2) & above(-6)) - ellipse(2.6, -5.5, 4.9, 8.8).mirrored()
SMILE = circle(0, -6.1, 5.2) - circle(0, -21.2, 16.2)
SPECTACLES = circle(4, -9.3, 3.05).mirrored().outline(0.75) | box(0, -9.9, 1.3, 0.6, 0.3)

LAYERS = (
    Layer("shirt", "shirt", box(0, 11.2, 12.8, 10, 6.5), on="body"),
    Layer("hair", "hair", box(0, -7.3, 9.6, 11.7, 7.5), "Long_Hair"),
    Layer("hair", "hair", circles(SIDE_CURLS, 3.5).mirrored(), "Curly_Hair"),
    Layer("hair", "hair", circles(TOP_CURLS, 3.5).mirrored(), "hatless curls"),
    Layer("shirt", "collar", box(0, 0.6, 3.9, 3.7, 3.7), on="body"),
    Layer("neck", "shade", box(0, -0.4, 3, 3.8, 2.9), on="body"),
    Layer("face", "skin", circle(7.6, -6.2, 1.8).mirrored(), "Short_Hair"),
    Layer("face", "skin", box(0, -8.3, 7.4, 8.5, 7)),
    Layer("face", "blush", circle(5.2, -5.2, 1.5).mirrored(), opacity=0.22),
    Layer("face", "brow", box(3.7, -12.1, 1.4, 0.32, 0.3).mirrored()),
    Layer("face", "nose", box(0, -6.7, 0.9, 0.5, 0.5)),
    Layer("hair", "hair", SHORT_FRINGE, "Short_Hair"),
    Layer("hair", "hair", PARTED_FRINGE, "Long_Hair"),
    Layer("hair", "hair", circles(FOREHEAD_CURLS, 2.4).mirrored(), "hatless curls"),
    Layer("hair", "shine", circles(SIDE_CURLS, 1.45).mirrored().outline(0.28), "Curly_Hair"),
    Layer("hair", "shine", circles(TOP_CURLS + FOREHEAD_CURLS, 1.45).mirrored().outline(0.28), "hatless curls"),
    Layer("mouth", "lips", SMILE, "Smiling"),
    Layer("mouth", "teeth", SMILE.inset(0.6) & above(-3.2), "Smiling"),
    Layer("mouth", "closed", box(0, -3.6, 1.8, 0.55, 0.55), "serious"),
    Layer("glasses", "lens", circle(4, -9.3, 3).mirrored(), "Eyeglasses", opacity=0.7),
    Layer("eyes", "eye", ellipse(3.7, -9.3, 1.05, 1.35).mirrored()),
    Layer("eyes", "glint", circles(((-3.3, -9.8), (4.1, -9.8)), 0.36)),
    Layer("glasses", "frame", SPECTACLES, "Eyeglasses"),
    Layer("hat", "crown", box(0, -17.8, 8.4, 4.4, 4.2), "Wearing_Hat"),
    Layer("hat", "band", box(0, -16, 8.5, 1.4, 0.2), "Wearing_Hat"),
    Layer("hat", "brim", box(0, -14.2, 11.2, 1.3, 1.3), "Wearing_Hat"),
)
"""The layers of a portrait from back to front."""

# ---- painting --------------------------------------------------------------------------------------------------------


def portraits(has: Mapping[str, Flag], shift: Array, tint: Array, size: int) -> tuple[Bytes, Bytes]:
    """Draw n portraits.

    Args:
        has: attribute of `PlantedFaces` → which of the n portraits have it.
        shift: (n,) float32, to the right in units, within ±`MAX_SHIFT`.
        tint: (n, 4) float32, factors on the colours of background, shirt, skin and hair.
        size: height and width in pixels.

    Returns:
        Images, uint8 (n, 3, size, size), and the index in `PARTS` of what each pixel shows, uint8 (n, size, size).
    """
    colours = _colours(has, tint)
    has = {**has, "hatless curls": has["Curly_Hair"] & ~has["Wearing_Hat"], "serious": ~has["Smiling"]}
    head = np.where(has["Large_Head"], np.float32(LARGE), np.float32(SMALL))
    scales = {"head": head, "body": np.ones_like(head)}
    pixels, parts = _backdrop(colours["background"], size), np.zeros((len(head), size, size), np.uint8)
    for layer in LAYERS:
        rows = np.flatnonzero(has[layer.where]) if layer.where in has else slice(None)
        colour = colours[layer.colour]
        colour = (colour[rows] if len(colour) > 1 else colour)[:, :, None, None]
        coverage, lines, columns = _coverage(layer.shape, shift[rows], scales[layer.on][rows], size)
        below = pixels[rows, :, lines, columns]
        pixels[rows, :, lines, columns] = below + (coverage * np.float32(layer.opacity))[:, None] * (colour - below)
        hidden = parts[rows, lines, columns]
        parts[rows, lines, columns] = np.where(coverage > 0.5, np.uint8(PARTS.index(layer.part)), hidden)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8), parts


def _colours(has: Mapping[str, Flag], tint: Array) -> dict[str, Array]:
    """Return the colours of layers by name: (n, 3), or (1, 3) where all portraits share one."""

    def choose(name: str, yes: str, no: Array) -> Array:
        return np.where(has[name][:, None], PALETTE[yes], no)

    background, shirt, skin, hair = tint.T[:, :, None]
    background = background * choose("Bright_Background", "bright", PALETTE["dim"])
    shirt = shirt * choose("Wearing_Red", "red", PALETTE["blue"])
    skin = skin * choose("Pale_Skin", "pale", choose("Dark_Skin", "dark", PALETTE["medium"]))
    hair = hair * choose("Black_Hair", "black", choose("Brown_Hair", "brown", PALETTE["blond"]))
    tones = {"background": background, "shirt": shirt, "skin": skin, "hair": hair}
    darker = {"collar": shirt * np.float32(0.8), "shade": skin * np.float32(0.88), "nose": skin * np.float32(0.8)}
    return {
        **PALETTE,
        **tones,
        **darker,
        "brow": skin * np.float32(0.6),
        "shine": hair + (255 - hair) * np.float32(0.14),
    }


def _backdrop(colour: Array, size: int) -> Array:
    """Return the background, (n, 3, size, size): its colour, 8 % dimmer towards the corners."""
    r: Array = ((np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1) ** 2
    light: Array = 1.02 - 0.05 * (r[:, None] + r)
    return colour[:, :, None, None] * light


def _coverage(shape: Shape, shift: Array, scale: Array, size: int) -> tuple[Array, slice, slice]:
    """Return the share of each pixel that the shape covers, (n, lines, columns), and these lines and columns."""
    unit = size / CANVAS
    columns = _reach(shape.left, shape.right, CHIN_X, MAX_SHIFT, size)
    lines = _reach(shape.top, shape.bottom, CHIN_Y, 0.0, size)
    centres = ((np.arange(size) + 0.5) / unit).astype(np.float32)
    shift, scale = shift[:, None, None], scale[:, None, None]
    u = (centres[columns] - (np.float32(CHIN_X) + shift)) / scale
    v = (centres[lines, None] - np.float32(CHIN_Y)) / scale
    return np.clip(0.5 - shape.distance(u, v) * (scale * np.float32(unit)), 0, 1), lines, columns


def _reach(low: float, high: float, origin: float, margin: float, size: int) -> slice:
    """Return the pixels that [low, high] may touch at any scale and shift, the same for all images."""
    first = (origin + min(low * LARGE, low * SMALL) - margin) * size / CANVAS - 1
    last = (origin + max(high * LARGE, high * SMALL) + margin) * size / CANVAS + 1
    return slice(max(0, int(first)), max(0, min(size, int(last) + 1)))
