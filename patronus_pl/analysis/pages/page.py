"""Parts of HTML pages: pixels as data URIs that the browser magnifies, charts as SVG paths, numbers for reading."""

import base64
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from torch import Tensor
from torch.nn.functional import interpolate

from patronus_pl.analysis.pages import figures
from patronus_pl.analysis.pages.figures import Pixels
from patronus_pl.types import Box

LIMIT = 3_300_000
"""Most bytes of pictures on a page. Base64 adds a third, so that the page stays below 5 MB."""
THUMBNAIL = 96
"""Images with a longer side than this are shrunk to it on the page."""
QUALITIES = (None, 90, 75, 50)
"""Qualities to try: lossless (None) first, lossy only if the page would become too large."""


# ---- pictures on the page --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A picture on a page: its pixels, how much the browser magnifies them, and boxes to lay over them.

    Attributes:
        pixels: RGBA.
        scale: screen pixels a pixel.
        boxes: (left, top, width, height) in percent of the picture.
        exact: each pixel is a number, and none may be left out.
    """

    pixels: Pixels
    scale: int
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    exact: bool = False

    @classmethod
    def of(
        cls,
        images: Float[Tensor, "rows columns c h w"],
        tile: int,
        boxes: Sequence[Sequence[Box | None]] | None = None,
    ) -> "Picture":
        """Lay images side by side, each about `tile` screen pixels high."""
        h, w = images.shape[-2:]
        small = shrink(images)
        pixels = figures.tiles(small)
        height, width = (side / (small.shape[-2] / h) for side in pixels.shape[:2])
        pitch = (small.shape[-2] + 1) / (small.shape[-2] / h), (small.shape[-1] + 1) / (small.shape[-1] / w)
        placed = [
            (
                (c * pitch[1] + box[1]) / width * 100,
                (r * pitch[0] + box[0]) / height * 100,
                (box[3] - box[1]) / width * 100,
                (box[2] - box[0]) / height * 100,
            )
            for r, row in enumerate(boxes or ())
            for c, box in enumerate(row)
            if box is not None
        ]
        return cls(pixels, max(1, tile // small.shape[-2]), tuple(placed))


def shrink(images: Float[Tensor, "rows columns c h w"]) -> Float[Tensor, "rows columns c h2 w2"]:
    """Shrink images whose longer side exceeds `THUMBNAIL`; others are returned as they are."""
    longest = max(images.shape[-2:])
    if longest <= THUMBNAIL:
        return images
    size = [max(1, side * THUMBNAIL // longest) for side in images.shape[-2:]]
    small = interpolate(images.flatten(0, 1), size=size, mode="bilinear", antialias=True)
    return small.reshape(*images.shape[:3], *size)


def embed(draw: Callable[[], Iterator[tuple[str, Picture]]], limit: int = LIMIT) -> dict[str, dict[str, Any]]:
    """Return pictures as data URIs with their size on the screen, all together at most `limit` bytes before base64.

    Lossless if that fits; otherwise WebP of falling quality, then fewer pixels.

    Args:
        draw: gives all pictures with their names, one by one, so that only one is held; anew each time it is called.
        limit: in bytes.
    """
    smaller = [(quality, 1, limit) for quality in QUALITIES]
    smaller += [(QUALITIES[-1], every, limit) for every in (2, 4, 8, 16)]
    smaller += [(QUALITIES[-1], 16, sys.maxsize)]  # thousands of prototypes: a large page beats none
    return next(shown for way in smaller if (shown := _encoded(draw(), *way)) is not None)


def _encoded(
    pictures: Iterator[tuple[str, Picture]], quality: int | None, every: int, limit: int
) -> dict[str, dict[str, Any]] | None:
    """Encode all pictures; return None as soon as they exceed the limit."""
    kind, shown = "png" if quality is None else "webp", dict[str, dict[str, Any]]()
    for name, picture in pictures:
        step = 1 if picture.exact else every
        data = figures.png_or_webp(picture.pixels[::step, ::step], quality)
        limit -= len(data)
        if limit < 0:
            return None
        shown[name] = {
            "uri": f"data:image/{kind};base64,{base64.b64encode(data).decode()}",
            "height": picture.pixels.shape[0] * picture.scale,
            "width": picture.pixels.shape[1] * picture.scale,
            "boxes": picture.boxes,
        }
    return shown


# ---- charts on the page ----------------------------------------------------------------------------------------------


def steps_path(heights: Sequence[float], width: float = 100.0, height: float = 40.0) -> str:
    """Return the outline of a histogram as an SVG path; heights are in shares of the chart's height."""
    pitch = width / len(heights)
    tops = " ".join(f"V{height * (1 - h):.2f} H{(k + 1) * pitch:.2f}" for k, h in enumerate(heights))
    return f"M0 {height} {tops} V{height} Z"


def line_path(x: Sequence[float], y: Sequence[float], width: float = 100.0, height: float = 40.0) -> str:
    """Return points joined by lines as an SVG path; x and y are in shares of the chart, y counts from below."""
    points = (f"{width * a:.2f} {height * (1 - min(max(b, 0), 1)):.2f}" for a, b in zip(x, y, strict=True))
    return "M" + " L".join(points)


# ---- text ------------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    """Write a number for reading; a dash where there is none."""
    if value is None:
        return "–"
    rounded = round(value, digits) + 0.0  # no minus before a zero
    return f"{rounded:,.{digits}f}".replace("-", "−")


def spoken(attribute: str | None, sign: int = 1) -> str:
    """Write an attribute's name for reading."""
    return "" if attribute is None else ("not " if sign < 0 else "") + attribute.replace("_", " ")


def template(name: str) -> Template:
    """Load a template of this package that escapes every text, with the filters `n` (`number`) and `spoken`."""
    environment = Environment(
        loader=PackageLoader("patronus_pl", "analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"n": number, "spoken": spoken}
    return environment.get_template(name)
