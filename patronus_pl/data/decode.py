"""One image file → the bytes that are cached."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Preprocessing:
    """What decides the pixels of a decoded file.

    Args:
        image_size: height and width in pixels.
        channels: 1 (ITU-R 601 luma) or 3 (RGB).
        crop: `center` cuts the largest central square; `none` squashes the whole image into a square.
    """

    image_size: int
    channels: int
    crop: Literal["center", "none"]


def decode(path: Path, how: Preprocessing) -> NDArray[np.uint8]:
    """Read, turn upright (EXIF), crop, and resize (bilinear, anti-aliased): uint8 (c, h, w).

    Sixteen bits become eight by 65535 → 255, whatever the range that the picture uses; transparency becomes white.
    """
    with Image.open(path) as file:
        image = _plain(ImageOps.exif_transpose(file), how.channels)
    if how.crop == "center":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    image = image.resize((how.image_size, how.image_size), Image.Resampling.BILINEAR)
    pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels).astype(np.uint8)
    return np.broadcast_to(pixels, (how.channels, *pixels.shape[1:]))


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Mode L or RGB, or F in 0..255 for files with more than eight bits of grey."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"grey values from {grey.min():.0f} to {grey.max():.0f} do not fit 16 bits")
        return Image.fromarray(grey / 257)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")
