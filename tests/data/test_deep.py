"""Images of more than 8 bits: one factor for the whole data set, never a silent wrong result."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from patronus_pl.data import ImageFolder
from patronus_pl.data import deep as deep_module
from patronus_pl.errors import CorruptFileError, InvalidOptionError

COUNT = 12
GREYS = (np.arange(COUNT)[:, None, None] * 16 + np.arange(64).reshape(8, 8)).astype(np.int64)  # 0..239


def png16(values: NDArray[Any]) -> bytes:
    """A PNG of 16 bits with k = 1..4 channels, from (h, w, k), as the standard says."""
    height, width, k = values.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[k], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def write(root: Path, kind: str) -> None:
    """Pictures of 8 × 8 that all hold GREYS / 255 of white, kept in several ways."""
    for i, grey in enumerate(GREYS):
        if kind == "tif32":
            Image.fromarray(grey.astype(np.int32)).save(root / f"{i:02d}.tif")
        elif kind == "float":
            Image.fromarray((grey / 255).astype(np.float32)).save(root / f"{i:02d}.tif")
        elif kind == "float255":
            Image.fromarray(grey.astype(np.float32)).save(root / f"{i:02d}.tif")
        else:
            white, channels = {"png12": (4095, 1), "png16": (65535, 1), "rgb12": (4095, 3), "grey-alpha": (16383, 2),
                               "rgba": (65535, 4), "png10": (1023, 1)}[kind]  # fmt: skip
            values = np.repeat(np.rint(grey * (white / 255))[..., None], channels, -1)
            if channels in (2, 4):
                values[..., -1] = 65535
            (root / f"{i:02d}.png").write_bytes(png16(values))


def read(root: Path, **options: Any) -> dict[int, NDArray[np.uint8]]:
    data = ImageFolder(str(root), **{"image_size": 8, "channels": 1, **options})
    data.setup()
    tables = data.tables.values()
    return {int(name[:2]): image for table in tables for name, image in zip(table.ids, table.images, strict=True)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "white"),
    [("png10", 1023), ("png12", 4095), ("png16", 65535), ("rgb12", 4095), ("grey-alpha", 16383), ("rgba", 65535),
     ("tif32", 255), ("float", 1), ("float255", 255)],
)  # fmt: skip
def test_every_depth_gives_the_same_pixels(
    tmp_path: Path, kind: str, white: int, channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, kind)
    for i, image in read(tmp_path, channels=channels).items():
        assert image.shape == (channels, 8, 8)
        assert np.abs(image.astype(int) - GREYS[i]).max() <= 1
    assert f"images of more than 8 bits: {white} is white; data.white sets another value" in caplog.text


def test_one_factor_for_all_splits_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "png12")
    first = read(tmp_path)
    monkeypatch.setattr(deep_module, "values", None)  # the value of white is remembered beside the caches
    assert all(np.array_equal(image, first[i]) for i, image in read(tmp_path).items())
    (memo,) = (tmp_path / ".patronus_cache").glob("white-*.json")
    assert json.loads(memo.read_text())["largest"] == round(239 * 4095 / 255)


def test_white_as_an_argument(tmp_path: Path) -> None:
    write(tmp_path, "png12")
    half = read(tmp_path, white=2 * 4095)
    assert all(np.abs(image.astype(int) - GREYS[i] / 2).max() <= 1 for i, image in half.items())
    with pytest.raises(CorruptFileError, match=r"its largest value is .*, above white, 1000; set data.white"):
        read(tmp_path, white=1000)
    with pytest.raises(InvalidOptionError, match=r"data.white is -1.0; it must be above 0"):
        ImageFolder(str(tmp_path), white=-1.0)


def test_the_checkpoint_keeps_what_was_white(tmp_path: Path) -> None:
    write(tmp_path, "png12")
    data = ImageFolder(str(tmp_path), image_size=8)
    data.setup("fit")
    assert data.hparams["white"] == data.describe()["white"] == 4095


def test_eight_bits_beside_more_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "png12")
    Image.fromarray(GREYS[0].astype(np.uint8)).save(tmp_path / "99.png")
    assert np.array_equal(read(tmp_path)[99][0], GREYS[0])


def test_black_images_stay_black(tmp_path: Path) -> None:
    for i in range(COUNT):
        Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / f"{i:02d}.png")
    assert all((image == 0).all() for image in read(tmp_path).values())


def test_eight_bits_say_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i, grey in enumerate(GREYS):
        Image.fromarray(grey.astype(np.uint8)).save(tmp_path / f"{i:02d}.png")
    assert all(np.array_equal(image[0], GREYS[i]) for i, image in read(tmp_path).items())
    assert "white" not in caplog.text


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.full((8, 8), 70000, np.int32), InvalidOptionError, "hold values up to 70000, more than 16 bits; set data"),
        (np.full((8, 8), -5, np.int32), CorruptFileError, "values from -5 to -5 start below 0; shift them to start"),
        (np.full((8, 8), np.nan, np.float32), CorruptFileError, "it holds values that are not numbers"),
    ],
)  # fmt: skip
def test_values_without_meaning_are_named(
    tmp_path: Path, values: NDArray[Any], error: type[Exception], message: str
) -> None:
    for i in range(COUNT):
        Image.fromarray(values).save(tmp_path / f"{i:02d}.tif")
    with pytest.raises(error, match=message):
        read(tmp_path)


def tiff_rgb16(values: NDArray[Any]) -> bytes:
    """An uncompressed little-endian TIFF of 16-bit RGB, from (h, w, 3)."""
    height, width, _ = values.shape
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 140),
            (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, height * width * 6), (284, 3, 1, 1)]  # fmt: skip
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head += struct.pack("<I", 0)
    return head + struct.pack("<3H", 16, 16, 16) + values.astype("<u2").tobytes()


def test_colour_tiffs_of_sixteen_bits(tmp_path: Path) -> None:
    for i, grey in enumerate(GREYS):
        (tmp_path / f"{i:02d}.tif").write_bytes(tiff_rgb16(np.repeat(grey[..., None] * 257, 3, -1)))
    assert all(np.array_equal(image[0], GREYS[i]) for i, image in read(tmp_path, channels=3).items())
    for i, grey in enumerate(GREYS):
        (tmp_path / f"{i:02d}.tif").write_bytes(tiff_rgb16(np.repeat(np.rint(grey * (4095 / 255))[..., None], 3, -1)))
    assert all(np.array_equal(image[0], GREYS[i]) for i, image in read(tmp_path, channels=3).items())
