"""Paint cartoon portraits from tables of layers. `hands` holds the tables, `planted_faces` chooses the attributes.

Notation: the canvas is 32 × 32 units at any resolution, y points down; (u, v) are units in the frame of body or head,
with the chin at the origin; d(u, v) is the signed distance to the edge of a shape, negative inside. With k pixels a
unit and a frame of scale s, a shape of one colour is painted as

    coverage = clip(1/2 − d · s · k, 0, 1),    pixel ← pixel + coverage · opacity · (colour − pixel).

Only +, −, ×, ÷ and √ are used, which IEEE 754 rounds exactly: the same portrait has the same bytes on every machine.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.shapes import Array, Shape

Flag = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

PARTS = ("background", "shirt", "neck", "hair", "face", "eyes", "mouth", "glasses", "hat")
"""The parts that a pixel can show, in the order of masks."""

CANVAS = 32.0
CHIN_X, CHIN_Y, MAX_SHIFT = 16.0, 23.6, 0.4
LARGE, SMALL = 1.05, 0.84
POSED_SHIFT = 1.0
"""A pose moves the portrait by up to this many units to the side and down."""
POSED_ZOOM = (0.92, 1.06)
POSED_TURN = 0.06
"""A pose turns the portrait by θ with |tan(θ/2)| up to this: 6.9°."""
POSED_SHARE = 0.4
"""In a pose, covering more than this share of a pixel is enough: a small head's mouth is thinner than a pixel."""

# ---- what a hand is --------------------------------------------------------------------------------------------------


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
    share: float = 0.5
    """A pixel of which the shape covers more than this share shows the part. Less for lines thinner than a pixel."""


class Hand(NamedTuple):
    """How somebody draws: which shapes, in which colours."""

    layers: tuple[Layer, ...]
    """From back to front."""
    palette: Mapping[str, Array]
    """Name of a colour → (1, 3) in 0..255."""
    hues: tuple[tuple[float, float], tuple[float, float]] | None = None
    """Saturation and value, in 0..1, of bright and of other backgrounds, which then have any hue; None: two colours."""


class Pose(NamedTuple):
    """How the portrait stands in the picture."""

    right: Array
    """(n,) units, within ±`POSED_SHIFT`."""
    down: Array
    """(n,) units, within ±`POSED_SHIFT`."""
    zoom: Array
    """(n,) size, within `POSED_ZOOM`."""
    turn: Array
    """(n,) tangent of half the angle, within ±`POSED_TURN`."""


class Look(NamedTuple):
    """What differs between n portraits of the same attributes."""

    shift: Array
    """(n,) float32, to the right in units, within ±`MAX_SHIFT`."""
    tint: Array
    """(n, 4) float32, factors on the colours of background, shirt, skin and hair."""
    hue: Array
    """(n,) float32 in [0, 1), of the background, for hands that use any hue."""
    pose: Pose | None = None
    scene: Array | None = None
    """(n, 3, size, size) factors on the background."""

    def take(self, rows: NDArray[np.int64]) -> "Look":
        """Return the looks of some portraits."""
        pose = None if self.pose is None else Pose(*(numbers[rows] for numbers in self.pose))
        scene = None if self.scene is None else self.scene[rows]
        return Look(self.shift[rows], self.tint[rows], self.hue[rows], pose, scene)


# ---- painting --------------------------------------------------------------------------------------------------------


def portraits(hand: Hand, has: Mapping[str, Flag], look: Look, size: int) -> tuple[Bytes, Bytes]:
    """Draw n portraits.

    Args:
        hand: shapes and colours.
        has: attribute of `PlantedFaces` → which of the n portraits have it.
        look: what else differs between the portraits.
        size: height and width in pixels.

    Returns:
        Images, uint8 (n, 3, size, size), and the index in `PARTS` of what each pixel shows, uint8 (n, size, size).
    """
    pixels, parts = paint(hand, has, look, size)
    return as_levels(pixels), parts


def as_levels(pixels: Array) -> Bytes:
    """Round light in 0..255 to whole levels."""
    levels: Bytes = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return levels


def paint(hand: Hand, has: Mapping[str, Flag], look: Look, size: int) -> tuple[Array, Bytes]:
    """Return what `portraits` does, the images as float32 in 0..255."""
    colours = _colours(hand, has, look)
    has = {
        **has,
        "hatless curls": has["Curly_Hair"] & ~has["Wearing_Hat"],
        "serious": ~has["Smiling"],
        "cropped": ~(has["Long_Hair"] | has["Curly_Hair"] | has["Short_Hair"]),
    }
    head = np.where(has["Large_Head"], np.float32(LARGE), np.float32(SMALL))
    scales = {"head": head, "body": np.ones_like(head)}
    pixels, parts = _backdrop(colours["background"], size), np.zeros((len(head), size, size), np.uint8)
    if look.scene is not None:
        pixels = pixels * look.scene
    for layer in hand.layers:
        rows = np.flatnonzero(has[layer.where]) if layer.where in has else slice(None)
        colour = colours[layer.colour]
        colour = (colour[rows] if len(colour) > 1 else colour)[:, :, None, None]
        coverage, lines, columns = _coverage(layer.shape, look, rows, scales[layer.on][rows], size)
        below = pixels[rows, :, lines, columns]
        pixels[rows, :, lines, columns] = below + (coverage * np.float32(layer.opacity))[:, None] * (colour - below)
        hidden, share = parts[rows, lines, columns], layer.share if look.pose is None else min(layer.share, POSED_SHARE)
        parts[rows, lines, columns] = np.where(coverage > share, np.uint8(PARTS.index(layer.part)), hidden)
    return pixels, parts


def _colours(hand: Hand, has: Mapping[str, Flag], look: Look) -> dict[str, Array]:
    """Return the colours of layers by name: (n, 3), or (1, 3) where all portraits share one."""
    palette = hand.palette

    def choose(name: str, yes: str, no: Array) -> Array:
        return np.where(has[name][:, None], palette[yes], no)

    background, shirt, skin, hair = look.tint.T[:, :, None]
    if hand.hues is None:
        background = background * choose("Bright_Background", "bright", palette["dim"])
    else:
        background = background * _any_hue(look.hue, has["Bright_Background"], *hand.hues)
    shirt = shirt * choose("Wearing_Red", "red", palette["blue"])
    skin = skin * choose("Pale_Skin", "pale", choose("Dark_Skin", "dark", palette["medium"]))
    blond = choose("Blond_Hair", "blond", palette["grey"])
    hair = hair * choose("Black_Hair", "black", choose("Brown_Hair", "brown", blond))
    tones = {"background": background, "shirt": shirt, "skin": skin, "hair": hair}
    darker = {"collar": shirt * np.float32(0.8), "shade": skin * np.float32(0.88), "nose": skin * np.float32(0.8)}
    return {
        **palette,
        **tones,
        **darker,
        "brow": skin * np.float32(0.6),
        "shine": hair + (255 - hair) * np.float32(0.14),
    }


def _any_hue(hue: Array, bright: Flag, light: tuple[float, float], dim: tuple[float, float]) -> Array:
    """Return 255 V (1 − S + S ρ(h)), (n, 3), with ρ_c(h) = clip(|6 frac(h + c/3) − 3| − 1, 0, 1) for c = 0, 2, 1."""
    both = np.array([dim, light], np.float32)
    saturation, value = both[bright.astype(np.int64)].T[:, :, None]
    turned = hue[:, None] + np.array([0, 2 / 3, 1 / 3], np.float32)
    ramp = np.clip(np.abs(6 * (turned - np.floor(turned)) - 3) - 1, 0, 1)
    rgb: Array = np.float32(255) * value * (1 - saturation + saturation * ramp)
    return rgb


def _backdrop(colour: Array, size: int) -> Array:
    """Return the background, (n, 3, size, size): its colour, 8 % dimmer towards the corners."""
    r: Array = ((np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1) ** 2
    light: Array = 1.02 - 0.05 * (r[:, None] + r)
    return colour[:, :, None, None] * light


def _coverage(
    shape: Shape, look: Look, rows: NDArray[np.int64] | slice, scale: Array, size: int
) -> tuple[Array, slice, slice]:
    """Return the share of each pixel that the shape covers, (n, lines, columns), and these lines and columns."""
    unit = size / CANVAS
    lines, columns = region(shape, look.pose is not None, size)
    centres = ((np.arange(size) + 0.5) / unit).astype(np.float32)
    shift, scale = look.shift[rows][:, None, None], scale[:, None, None]
    if look.pose is None:
        u = (centres[columns] - (np.float32(CHIN_X) + shift)) / scale
        v = (centres[lines, None] - np.float32(CHIN_Y)) / scale
    else:
        right, down, zoom, t = (numbers[rows][:, None, None] for numbers in look.pose)
        x = centres[columns] - (np.float32(CHIN_X) + shift + right)
        y = centres[lines, None] - (np.float32(CHIN_Y) + down)
        scale = scale * zoom
        cosine, sine = (1 - t * t) / ((1 + t * t) * scale), 2 * t / ((1 + t * t) * scale)
        u, v = x * cosine + y * sine, y * cosine - x * sine
    return np.clip(0.5 - shape.distance(u, v) * (scale * np.float32(unit)), 0, 1), lines, columns


def region(shape: Shape, posed: bool, size: int) -> tuple[slice, slice]:
    """Return the lines and columns that the shape may touch at any scale, shift and pose, the same for all images."""
    least, most = (SMALL * POSED_ZOOM[0], LARGE * POSED_ZOOM[1]) if posed else (SMALL, LARGE)
    sine, move = (2 * POSED_TURN / (1 + POSED_TURN**2), POSED_SHIFT) if posed else (0.0, 0.0)
    width, height = max(-shape.left, shape.right), max(-shape.top, shape.bottom)

    def reach(low: float, high: float, origin: float, margin: float) -> slice:
        first = (origin + min(low * most, low * least) - margin) * size / CANVAS - 1
        last = (origin + max(high * most, high * least) + margin) * size / CANVAS + 1
        return slice(max(0, int(first)), max(0, min(size, int(last) + 1)))

    columns = reach(shape.left, shape.right, CHIN_X, MAX_SHIFT + move + sine * most * height)
    return reach(shape.top, shape.bottom, CHIN_Y, move + sine * most * width), columns
