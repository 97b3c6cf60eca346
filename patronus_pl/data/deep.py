"""Read images of more than 8 bits per value, and find the value that is white in all images of a data set."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patronus_pl.errors import InvalidOptionError, PatronusError
from patronus_pl.files import replacing

DEEP_EXTENSIONS = frozenset({".pgm", ".png", ".ppm", ".tif", ".tiff"})
WHITES = (1, 255, 1023, 4095, 16383, 65535)
"""The largest values of 1, 8, 10, 12, 14 and 16 bits."""
BITS_PER_SAMPLE = 258  # TIFF tag

Values = NDArray[Any]
"""(h, w, k): grey, grey and alpha, RGB, or RGB and alpha, whole numbers or float32; alpha in 0..65535."""


def values(source: BinaryIO, image: Image.Image) -> Values | None:
    """Return the stored values of an image with more than 8 bits per value, (h, w, k); None for 8 bits.

    Args:
        source: the file that `image` was opened from.
        image: a picture whose pixels are not loaded yet.

    Raises:
        ValueError: a negative value, or one that is not a number.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        found = np.asarray(image)[..., None]
    elif image.format == "PNG" and _png_depth(source) == 16:
        found = _png16(source)
    else:
        return None
    if not np.isfinite(found).all():
        raise ValueError("it holds values that are not numbers")
    if found.min() < 0:
        raise ValueError(f"values from {found.min():g} to {found.max():g} start below 0; shift them to start at 0")
    return found


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


def _png_depth(source: BinaryIO) -> int:
    position = source.tell()
    source.seek(24)
    depth = source.read(1)
    source.seek(position)
    return depth[0] if depth else 0


def _png16(source: BinaryIO) -> Values:
    """Return colour or alpha of 16 bits, which Pillow would cut to 8."""
    import torch
    from torchvision.io import ImageReadMode, decode_png  # costs a second; rarely needed

    position = source.tell()
    source.seek(0)
    data = torch.frombuffer(bytearray(source.read()), dtype=torch.uint8)
    source.seek(position)
    try:
        pixels = decode_png(data, ImageReadMode.UNCHANGED)
    except RuntimeError as error:
        raise OSError(f"damaged PNG of 16 bits ({error})") from error
    found: Values = pixels.permute(1, 2, 0).numpy()
    return found


def white_of(name: str, files: Sequence[Path], root: Path, folder: Path) -> float | None:
    """Return the value that is white in the deep images of a data set; None if it has none.

    The answer is kept in a small file beside the caches, since every deep image must be read for it.

    Args:
        name: the data set, for messages.
        files: all images, of all splits: one factor holds for the whole data set.
        root: folder that the files are named from.
        folder: where caches are kept.

    Raises:
        InvalidOptionError: values above 16 bits, or colours that Pillow cannot read exactly.
    """
    files = [file for file in files if file.suffix.lower() in DEEP_EXTENSIONS]
    if not files:
        return None
    memo = f"white-{_key(files, root)}.json"
    for place in (root / ".patronus_cache", folder):
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads((place / memo).read_text())["largest"]
            return _white(name, files, float(known["grey"]), float(known["tiff"]))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        largest = list(pool.map(_largest, files, chunksize=64))
    grey, tiff = (max((x[kind] for x in largest), default=-1.0) for kind in (0, 1))
    with suppress(OSError, PatronusError):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / memo, "set data.cache_dir") as file:
            file.write(json.dumps({"largest": {"grey": grey, "tiff": tiff}}).encode())
    return _white(name, files, grey, tiff)


def _white(name: str, files: Sequence[Path], grey: float, tiff: float) -> float | None:
    if max(grey, tiff) < 0:
        return None
    largest = max(grey, tiff)
    white = next((float(value) for value in WHITES if value >= largest), None)
    if white is None:
        raise InvalidOptionError(
            f"{name}: pixels hold values up to {largest:g}, more than 16 bits; set data.white to the value of white"
        )
    if tiff >= 0 and white < WHITES[-1]:
        raise InvalidOptionError(
            f"{name}: colour TIFF files of 16 bits use only 0..{white:g}, of which Pillow keeps 8 of 16 bits; save "
            "them as PNG of 16 bits or with 8 bits"
        )
    return white


def _key(files: Sequence[Path], root: Path) -> str:
    digest = hashlib.sha256(json.dumps(WHITES).encode())
    for file in files:
        with suppress(OSError):
            status = file.stat()
            digest.update(os.fsencode(str(file).removeprefix(str(root))))
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _largest(path: Path) -> tuple[float, float]:
    """Return the largest value of one deep image, as grey or exact colour, and as a colour TIFF; -1 for neither."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".png" and _png_depth(file) <= 8:
                return -1.0, -1.0
            with Image.open(file) as image:
                if image.format == "TIFF" and image.mode in ("RGB", "RGBA", "RGBX", "CMYK", "LA"):
                    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
                    return -1.0, float(np.asarray(image).max()) * 257 if max(bits) > 8 else -1.0
                found = values(file, image)
        colours = -1 if found is None else found[..., :-1] if found.shape[-1] in (2, 4) else found
        return float(np.max(colours)), -1.0
    except Exception:  # a damaged file is named when it is decoded
        return -1.0, -1.0
