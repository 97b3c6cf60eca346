"""Pixel-exact tiles for pages, and labelled grids of images as PNG files. Only this and `charts` import matplotlib.

Figures are drawn without pyplot, so that they need no display, keep no global state and work in any thread.
"""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image as PillowImage
from torch import Tensor

from patronus_pl.pixels import as_bytes
from patronus_pl.types import Box, Image

Pixels = UInt8[np.ndarray, "height width 4"]
"""RGBA."""

DPI = 100
INK, QUIET, ACCENT, SECOND = "#26241f", "#7a766d", "#c2571a", "#2c7a8c"
STYLE: Any = {  # the keys have other types in other releases of matplotlib
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


# ---- pixels ----------------------------------------------------------------------------------------------------------


def rgb(images: Float[Tensor, "*shape c h w"]) -> UInt8[np.ndarray, "*shape h w 3"]:
    """Return images in [-1, 1] as bytes with the channels last, shape (*shape, h, w, 3); grey images become RGB."""
    scaled = as_bytes(images.detach().cpu().float())
    shape = *scaled.shape[:-3], 3, *scaled.shape[-2:]
    return scaled.expand(shape).movedim(-3, -1).numpy()


def tiles(
    images: Float[Tensor, "rows columns c h w"],
    gap: int = 1,
    scale: int = 1,
    boxes: Sequence[Sequence[Box | None]] | None = None,
) -> Pixels:
    """Lay images side by side, magnified by whole pixels and transparent in between.

    Args:
        images: (rows, columns, c, h, w) in [-1, 1].
        gap: pixels between two tiles, counted before magnification.
        scale: each pixel becomes scale × scale pixels.
        boxes: a box for each tile, in pixels of the tile; None draws none.
    """
    rows, columns, _, h, w = images.shape
    canvas = np.zeros(((rows * (h + gap) - gap) * scale, (columns * (w + gap) - gap) * scale, 4), np.uint8)
    colour = np.array([*bytes.fromhex(ACCENT[1:]), 255], np.uint8)
    big = rgb(images).repeat(scale, axis=2).repeat(scale, axis=3)
    for r in range(rows):
        for c in range(columns):
            top, left = r * (h + gap) * scale, c * (w + gap) * scale
            tile = canvas[top : top + h * scale, left : left + w * scale]
            tile[..., :3], tile[..., 3] = big[r, c], 255
            box = boxes[r][c] if boxes is not None else None
            if box is not None:
                _outline(tile, box, scale, colour)
    return canvas


def _outline(tile: Pixels, box: Box, scale: int, colour: UInt8[np.ndarray, " 4"]) -> None:
    top, left, bottom, right = (edge * scale for edge in box)
    line = max(1, round(min(tile.shape[:2]) / 48))
    frame = tile[top:bottom, left:right]
    frame[:line], frame[-line:], frame[:, :line], frame[:, -line:] = colour, colour, colour, colour


def crops(images: Image, tops: Sequence[int], lefts: Sequence[int], size: int, gap: int = 1) -> Pixels:
    """Lay size × size windows side by side, one of each image; transparent where a window reaches beyond the image."""
    canvas = np.zeros((size, len(images) * (size + gap) - gap, 4), np.uint8)
    for k, (pixels, top, left) in enumerate(zip(rgb(images), tops, lefts, strict=True)):
        h, w = pixels.shape[:2]
        inside = pixels[max(top, 0) : min(top + size, h), max(left, 0) : min(left + size, w)]
        y, x = max(-top, 0), k * (size + gap) + max(-left, 0)
        canvas[y : y + inside.shape[0], x : x + inside.shape[1]] = np.concatenate(
            [inside, np.full((*inside.shape[:2], 1), 255, np.uint8)], axis=2
        )
    return canvas


def magnified(images: Image, tops: Sequence[int], lefts: Sequence[int], size: int, gap: int = 1) -> Pixels:
    """Lay tiles of the images' size side by side, each filled with a size × size window magnified by whole pixels."""
    h, w = images.shape[-2:]
    scale = max(1, min(h, w) // size)
    canvas = np.zeros((h, len(images) * (w + gap) - gap, 4), np.uint8)
    y, x = (max(0, (side - size * scale) // 2) for side in (h, w))
    for k in range(len(images)):
        window = crops(images[k : k + 1], tops[k : k + 1], lefts[k : k + 1], size)
        big = window.repeat(scale, 0).repeat(scale, 1)[:h, :w]
        left = k * (w + gap) + x
        canvas[y : y + big.shape[0], left : left + big.shape[1]] = big
    return canvas


def heat(
    images: Float[Tensor, "*shape c h w"], values: Float[Tensor, "*shape h w"], low: float, high: float
) -> Float[Tensor, "*shape 3 h w"]:
    """Return greyed images under a glow that grows from nothing where values are `low` to full where they are `high`.

    There is no glow where a value is NaN.
    """
    weight = ((values - low) / max(high - low, 1e-12)).clamp(0, 1).nan_to_num(0.0).float().cpu()
    glow = matplotlib.colormaps["inferno"](0.5 + 0.45 * weight.numpy())[..., :3] * 2 - 1
    colour = torch.from_numpy(glow).float().movedim(-1, -3)
    grey = images.float().cpu().mean(-3, keepdim=True) * 0.6
    alpha = 0.9 * weight.unsqueeze(-3)
    return (1 - alpha) * grey + alpha * colour


def shades(values: Float[Tensor, "rows columns"], high: float) -> Pixels:
    """Return a matrix as pixels: transparent at 0, full colour from `high` on, another colour below 0."""
    numbers = values.detach().cpu().nan_to_num(0.0).numpy()
    canvas = np.zeros((*numbers.shape, 4), np.uint8)
    for sign, colour in ((1, ACCENT), (-1, SECOND)):
        canvas[sign * numbers > 0, :3] = [*bytes.fromhex(colour[1:])]
    canvas[..., 3] = np.rint(255 * np.clip(np.abs(numbers) / max(high, 1e-12), 0, 1))
    return canvas


def png_or_webp(pixels: Pixels, quality: int | None = None) -> bytes:
    """Return RGBA pixels as a PNG file, or as a lossy WebP file of the given quality (0..100)."""
    buffer = io.BytesIO()
    image = PillowImage.fromarray(pixels)
    if quality is None:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


# ---- figures ---------------------------------------------------------------------------------------------------------


def image_grid(
    images: Float[Tensor, "rows columns c h w"],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    boxes: Sequence[Sequence[Box | None]] | None = None,
    title: str = "",
    tile: int = 64,
) -> bytes:
    """Draw a labelled grid of images with boxes, as PNG; each image pixel becomes a square of whole screen pixels.

    Args:
        images: in [-1, 1].
        row_labels: at the left, one a row, or none.
        column_labels: above, one a column, or none.
        boxes: one a tile; None draws none.
        title: above all.
        tile: least height of a tile in pixels.
    """
    scale = max(1, -(-tile // images.shape[-2]))
    raster = tiles(images, max(1, 4 // scale), scale, boxes)
    height, width = raster.shape[:2]
    left = 14 + 7 * max((len(label) for label in row_labels), default=0)
    top = 10 + 18 * bool(column_labels) + 26 * bool(title)
    total = left + width + 10, top + height + 10
    with matplotlib.rc_context(STYLE):
        figure = Figure((total[0] / DPI, total[1] / DPI), dpi=DPI)
        figure.figimage(raster, left, 10)
        pitch = height / max(1, len(row_labels)), width / max(1, len(column_labels))
        for r, label in enumerate(row_labels):
            _text(figure, total, left - 8, top + (r + 0.5) * pitch[0], label, "right")
        for c, label in enumerate(column_labels):
            _text(figure, total, left + (c + 0.5) * pitch[1], top - 9, label, "center", QUIET)
        _text(figure, total, left, 18, title, "left", INK, "bold")
        return png_of(figure)


def _text(
    figure: Figure,
    total: tuple[int, int],
    x: int | float,
    y: int | float,
    text: str,
    align: str,
    colour: str = INK,
    weight: str = "normal",
) -> None:
    where = x / total[0], 1 - y / total[1]
    figure.text(*where, text, ha=align, va="center", color=colour, weight=weight, parse_math=False)


def png_of(figure: Figure) -> bytes:
    """Return a figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    # Without the program's version in the file, equal figures are equal bytes.
    # Level 3 writes a picture of tiles in a third of the time of level 6, and 7 % more bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return buffer.getvalue()
