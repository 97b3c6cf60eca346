from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Grayscale, Resize

from patronus_pl.data.decode import Preprocessing, decode

from .trees import picture


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", ["center", "none"])
@pytest.mark.parametrize("size", [64, 250])
def test_as_torchvision(tmp_path: Path, suffix: str, channels: int, crop: str, size: int) -> None:
    path = tmp_path / f"face{suffix}"
    picture(0, 218, 178).save(path)
    steps = [CenterCrop(178)] * (crop == "center") + [Grayscale()] * (channels == 1) + [Resize((size, size))]
    expected = np.atleast_3d(np.asarray(Compose(steps)(Image.open(path)))).transpose(2, 0, 1)
    decoded = decode(path, Preprocessing(size, channels, crop))  # type: ignore[arg-type]
    assert decoded.shape == (channels, size, size)
    assert np.array_equal(decoded, expected)


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_turns_the_picture_upright(tmp_path: Path, orientation: int, turn: int) -> None:
    stored = picture(0, 32, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    upright = np.rot90(np.asarray(stored), turn).transpose(2, 0, 1)
    assert np.array_equal(decode(tmp_path / "photo.png", Preprocessing(32, 3, "none")), upright)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(tmp_path: Path, suffix: str, channels: int) -> None:
    deep = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / f"x{suffix}")
    decoded = decode(tmp_path / f"x{suffix}", Preprocessing(16, channels, "none"))
    assert np.array_equal(decoded, np.broadcast_to(np.arange(256).reshape(16, 16), (channels, 16, 16)))


def test_modes(tmp_path: Path) -> None:
    how = Preprocessing(8, 3, "none")
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    for mode in ("P", "CMYK", "RGBA"):
        path = tmp_path / f"{mode}{'.tif' if mode == 'CMYK' else '.png'}"
        red.convert(mode).save(path)
        assert np.abs(decode(path, how).astype(int) - [[[255]], [[0]], [[0]]]).max() <= 1
    Image.new("1", (8, 8), 1).save(tmp_path / "bits.png")
    assert (decode(tmp_path / "bits.png", how) == 255).all()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (decode(tmp_path / "clear.png", how) == 255).all()


def test_pixels_without_a_known_range(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="floating-point pixels have no known range"):
        decode(tmp_path / "float.tif", Preprocessing(8, 1, "none"))
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match="from 70000 to 70000 do not fit 16 bits"):
        decode(tmp_path / "deep.tif", Preprocessing(8, 1, "none"))
