"""Decode one image file into the bytes that are cached."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from patronus_pl.data import deep

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LARGEST = 2**28
"""Pixels of the largest image that is read: 16,384 × 16,384, which takes 1 GB of memory while it is decoded."""
DRAFT = 89_000_000
"""JPEG files with more pixels than this are decoded at a half, a quarter or an eighth of their size."""
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by the value of its EXIF tag."""
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Preprocessing:
    """Everything that decides the pixels of a decoded file.

    Args:
        image_size: height and width in pixels.
        channels: 1 (ITU-R 601 luma) or 3 (RGB).
        crop: `center` cuts the largest central square; `none` squashes the whole image into a square.
        white: the value that becomes 255 in images of more than 8 bits. None takes 65535 for whole numbers and refuses
            fractions.
    """

    image_size: int
    channels: int
    crop: Literal["center", "none"]
    white: float | None = None


def decode(path: Path, how: Preprocessing) -> NDArray[np.uint8]:
    """Read a file, turn it upright, crop it and resize it (bilinear, antialiased): uint8 (c, h, w).

    Of an animation or a document, the first frame is read. Transparent pixels are laid over white. CMYK becomes RGB
    by Pillow's formula, without colour profiles. Metadata are ignored, but for the EXIF orientation.

    Raises:
        ValueError: the file holds values that `how.white` does not cover, or more than `LARGEST` pixels.
        OSError: the file is damaged or no image.
    """
    image = plain(path, how)
    if how.crop == "center":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    image = image.resize((how.image_size, how.image_size), Image.Resampling.BILINEAR)
    pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels).astype(np.uint8)
    return np.broadcast_to(pixels, (how.channels, *pixels.shape[1:]))


def plain(path: Path, how: Preprocessing) -> Image.Image:
    """Return the upright picture in mode L or RGB, or F in 0..255 if the file has more than 8 bits per value."""
    try:
        with path.open("rb") as file:
            return _read(file, how)
    except ValueError as error:
        if "MAX_TEXT" not in str(error).upper() and "text chunk" not in str(error):
            raise
        return _read(io.BytesIO(without_text(path.read_bytes())), how)  # more text than Pillow decompresses


def _read(source: io.BufferedReader | io.BytesIO, how: Preprocessing) -> Image.Image:
    with Image.open(source) as image:
        if image.format == "JPEG" and image.width * image.height > DRAFT:
            image.draft(image.mode, (4 * how.image_size, 4 * how.image_size))
        if image.width * image.height > LARGEST:
            raise ValueError(f"{image.width} × {image.height} pixels are more than {LARGEST:,}; shrink the image")
        values = deep.values(source, image)
        image.load()
        turn = TURNS.get(_orientation(image))
        if values is not None:
            return _turned(deep.picture(values, how.channels, how.white), turn)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
        else:
            flat = image
        return _turned(flat, turn).convert("L" if how.channels == 1 else "RGB")


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation, 1 (upright) if the metadata are damaged."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged block can make the parser raise anything
        return 1


def without_text(png: bytes) -> bytes:
    """Return a PNG file without its text and colour profile, of whatever size these are."""
    kept, start = [png[:8]], 8
    while start + 8 <= len(png):
        (length,) = struct.unpack(">I", png[start : start + 4])
        end = start + 12 + length
        if png[start + 4 : start + 8] not in TEXT_CHUNKS:
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


@contextmanager
def large_images() -> Iterator[None]:
    """Lift Pillow's limit on the number of pixels, in place of which `decode` has its own, `LARGEST`."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def why(error: Exception) -> str:
    """Return in a few words why a file could not be decoded."""
    if isinstance(error, UnidentifiedImageError):
        return "cannot identify image file: it is damaged, empty or no image"
    return str(error) or type(error).__name__
