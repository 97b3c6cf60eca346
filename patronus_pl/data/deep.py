"""Read images of more than 8 bits per value, and find the value that is white in all images of a data set."""

import hashlib
import io
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patronus_pl.errors import InvalidOptionError, PatronusError
from patronus_pl.files import replacing

DEEP_EXTENSIONS = frozenset({".pgm", ".png", ".ppm", ".tif", ".tiff"})
WHITES = (1, 255, 1023, 4095, 16383, 65535)
"""The largest values of 1, 8, 10, 12, 14 and 16 bits."""

Values = NDArray[Any]
"""(h, w, k): grey, grey and alpha, RGB, or RGB and alpha, whole numbers or float32; alpha in 0..65535."""


def values(source: io.BufferedReader | io.BytesIO, image: Image.Image) -> Values | None:
    """Return the stored values of an image with more than 8 bits per value, (h, w, k); None for 8 bits.

    Args:
        source: the file that `image` was opened from.
        image: a picture whose pixels are not loaded yet.

    Raises:
        ValueError: a negative value, or one that is not a number.
    """
    found: Values
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        found = np.asarray(image)[..., None]
    elif ";16" in (raw := _raw_mode(image)) and image.mode in ("RGB", "RGBA"):
        found = _sixteen_bits(source, raw)
    else:
        return None
    if not np.isfinite(found).all():
        raise ValueError("it holds values that are not numbers")
    if found.min() < 0:
        raise ValueError(f"values from {found.min():g} to {found.max():g} start below 0; shift them to start at 0")
    return found


def _raw_mode(image: Image.Image) -> str:
    """Return how Pillow unpacks the bytes of an open file, such as `RGB;16B`; "" if it does not say."""
    tiles = getattr(image, "tile", None) or [("", None, 0, "")]
    args = tiles[0][3]
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _sixteen_bits(source: io.BufferedReader | io.BytesIO, raw: str) -> Values:
    """Return colours of 16 bits. Pillow keeps the high bytes; if told the other byte order, it keeps the low ones."""
    if raw == "LA;16B":  # four bytes per pixel, as RGBA has: high and low byte of grey, high and low byte of alpha
        both = _unpacked(source, "RGBA").astype(np.uint16)
        return both[..., 0::2] * 256 + both[..., 1::2]
    native = "L" if sys.byteorder == "little" else "B"
    order = raw[-1].replace("N", native)
    high, low = (_unpacked(source, raw[:-1] + way).astype(np.uint16) for way in (order, {"B": "L", "L": "B"}[order]))
    return high * 256 + low


def _unpacked(source: io.BufferedReader | io.BytesIO, raw: str) -> Values:
    """Return the pixels (h, w, k) of a file, its bytes unpacked as `raw` says."""
    source.seek(0)
    with Image.open(io.BytesIO(source.read())) as image:
        tiles = []
        for codec, extents, offset, args in getattr(image, "tile", ()):
            tiles.append((codec, extents, offset, raw if isinstance(args, str) else (raw, *args[1:])))
        image.tile = tiles
        return np.asarray(image)


def picture(found: Values, channels: int, white: float | None) -> Image.Image:
    """Return values as a picture in mode F or RGB, 0..white → 0..255; alpha is laid over white.

    Args:
        found: (h, w, k) as `values` returns them.
        channels: 1 or 3.
        white: the value that becomes 255.

    Raises:
        ValueError: a value above `white`; or fractions where `white` is None.
    """
    count = found.shape[-1]
    colours, alpha = (found[..., :-1], found[..., -1:] / np.float32(65535)) if count in (2, 4) else (found, None)
    if white is None:
        if colours.dtype.kind == "f":
            raise ValueError("floating-point pixels have no known range; set data.white to the value of white")
        white = 65535
        if colours.max() > white:
            raise ValueError(f"values from {colours.min():.0f} to {colours.max():.0f} do not fit 16 bits")
    if colours.max() > white:
        raise ValueError(f"its largest value is {colours.max():g}, above white, {white:g}; set data.white")
    scaled = colours.astype(np.float32) / np.float32(white / 255)
    if alpha is not None:
        scaled = 255 + alpha * (scaled - 255)
    if scaled.shape[-1] == 1:
        return Image.fromarray(scaled[..., 0])
    if channels == 1:  # ITU-R 601 luma, as Pillow's mode L
        return Image.fromarray((scaled @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.float32))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _png_depth(source: io.BufferedReader | io.BytesIO) -> int:
    position = source.tell()
    source.seek(24)
    depth = source.read(1)
    source.seek(position)
    return depth[0] if depth else 0


def white_of(name: str, files: Sequence[Path], root: Path, folder: Path) -> float | None:
    """Return the value that is white in the deep images of a data set; None if it has none.

    The answer is kept in a small file beside the caches, since every deep image must be read for it.

    Args:
        name: the data set, for messages.
        files: all images, of all splits: one factor holds for the whole data set.
        root: folder that the files are named from.
        folder: where caches are kept.

    Raises:
        InvalidOptionError: values above 16 bits.
    """
    files = [file for file in files if file.suffix.lower() in DEEP_EXTENSIONS]
    if not files:
        return None
    memo = f"white-{_key(files, root)}.json"
    for place in (root / ".patronus_cache", folder):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return _white(name, float(json.loads((place / memo).read_text())["largest"]))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        largest = max(pool.map(_largest, files, chunksize=64))
    with suppress(OSError, PatronusError):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / memo, "set data.cache_dir") as file:
            file.write(json.dumps({"largest": largest}).encode())
    return _white(name, largest)


def _white(name: str, largest: float) -> float | None:
    if largest < 0:
        return None
    for white in WHITES:
        if white >= largest:
            return float(white)
    raise InvalidOptionError(
        f"{name}: pixels hold values up to {largest:g}, more than 16 bits; set data.white to the value of white"
    )


def _key(files: Sequence[Path], root: Path) -> str:
    digest = hashlib.sha256(json.dumps(WHITES).encode())
    for file in files:
        with suppress(OSError):
            status = file.stat()
            digest.update(os.fsencode(str(file).removeprefix(str(root))))
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _largest(path: Path) -> float:
    """Return the largest value of one image of more than 8 bits; -1 for other images."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".png" and _png_depth(file) <= 8:
                return -1.0
            with Image.open(file) as image:
                found = values(file, image)
        return -1.0 if found is None else float(np.max(found[..., :-1] if found.shape[-1] in (2, 4) else found))
    except Exception:  # a damaged file is named when it is decoded
        return -1.0
