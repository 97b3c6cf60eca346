"""Folders as they are found: links, circles, names in any bytes, files of any size and kind."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from patronus_pl.data import ImageFolder
from patronus_pl.data import decode as decode_module
from patronus_pl.data.decode import Preprocessing, decode, large_images
from patronus_pl.data.scan import scan
from patronus_pl.errors import CorruptFileError

from .trees import picture

HOW = Preprocessing(8, 3, "none")


def ids(root: Path) -> set[str]:
    return {name for listing in ImageFolder(str(root), image_size=8).listings().values() for name in listing.ids}


def fill(root: Path, count: int = 6) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(i, 8, 8).save(root / f"{i}.png")
    return root


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    real = fill(tmp_path / "disk")
    root = tmp_path / "data"
    root.mkdir()
    (root / "photos").symlink_to(real)
    (root / "one.png").symlink_to(real / "0.png")
    assert ids(root) == {"one.png", *(f"photos/{i}.png" for i in range(6))}
    (tmp_path / "link").symlink_to(root)
    assert ids(tmp_path / "link") == ids(root)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    (root / "again").symlink_to(root)
    (root / "deeper").mkdir()
    (root / "deeper" / "up").symlink_to(root / "deeper")
    (root / "itself").symlink_to(root / "itself")
    with pytest.warns(UserWarning, match=r"skipped 1 links to files that do not exist \(itself\)"):
        assert ids(root) == {f"{i}.png" for i in range(6)}


def test_a_folder_that_is_linked_twice_is_read_once_by_its_own_name(tmp_path: Path) -> None:
    root = tmp_path / "data"
    fill(root / "z_real")
    for name in ("a_link", "b_link"):
        (root / name).symlink_to(root / "z_real")
    assert ids(root) == {f"z_real/{i}.png" for i in range(6)}


def test_broken_links_are_said(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.warns(UserWarning, match=r"skipped 1 links to files that do not exist \(gone.png\)"):
        assert len(ids(root)) == 6


def test_names_in_any_bytes(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    name = os.fsdecode(b"caf\xe9.png")
    picture(9, 8, 8).save(root / "plain.png")
    os.rename(root / "plain.png", root / name)
    data = ImageFolder(str(root), image_size=8)
    data.setup()
    found = {name for table in data.tables.values() for name in table.ids}
    assert r"caf\xe9.png" in found
    assert len("".join(found).encode()) > 0  # every id can be printed
    (root / name).write_bytes(b"no image")
    with pytest.raises(CorruptFileError, match="unreadable"):
        ImageFolder(str(root), image_size=8).setup()


def test_hidden_folders_and_those_of_a_mac_are_left_out(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    fill(root / "__MACOSX")
    fill(root / ".thumbnails")
    assert len(scan(root).images) == 6


def test_text_of_any_size_beside_the_pixels(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "x" * 3_000_000, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "y" * 3_000_000, zip=True)
    picture(0, 8, 8).save(tmp_path / "x.png", pnginfo=text)
    with pytest.raises(ValueError, match="Decompressed data too large"):
        Image.open(tmp_path / "x.png").load()
    assert np.array_equal(decode(tmp_path / "x.png", HOW), np.asarray(picture(0, 8, 8)).transpose(2, 0, 1))


def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    picture(0, 8, 8).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert np.array_equal(decode(tmp_path / "x.png", HOW), np.asarray(picture(0, 8, 8)).transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_every_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture(0, 8, 8)
    stored.save(tmp_path / f"x{suffix}", exif=exif, **({"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}))
    pixels = np.asarray(stored).astype(int)
    upright = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
               6: np.rot90(pixels, 3), 7: pixels[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(pixels)}  # fmt: skip
    found = decode(tmp_path / f"x{suffix}", HOW).transpose(1, 2, 0)
    assert np.abs(found.astype(int) - upright[orientation]).max() <= (8 if suffix == ".jpg" else 0)


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (200, 0, 0, 51)).save(tmp_path / "x.png")
    expected = np.round(255 + (np.array([200, 0, 0]) - 255) * 0.2)
    assert np.abs(decode(tmp_path / "x.png", HOW)[:, 0, 0] - expected).max() <= 1


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_the_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    frames[0].save(tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:])
    assert np.abs(decode(tmp_path / f"x{suffix}", HOW)[:, 0, 0].astype(int) - [250, 0, 0]).max() <= 8


def large_png(path: Path, side: int) -> None:
    """A grey PNG of side × side pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, line = zlib.compressobj(1), b"\0" + b"\x80" * side
    body = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def test_very_large_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "data")
    large_png(root / "huge.png", 14_000)  # 196 megapixels, above Pillow's limit
    data = ImageFolder(str(root), image_size=8, channels=1)
    data.setup()
    (huge,) = [t.images[t.ids.index("huge.png")] for t in data.tables.values() if "huge.png" in t.ids]
    assert (huge == 128).all()
    monkeypatch.setattr(decode_module, "LARGEST", 10**6)
    with large_images(), pytest.raises(ValueError, match="14000 × 14000 pixels are more than 1,000,000; shrink the im"):
        decode(root / "huge.png", HOW)


def test_large_photographs_are_decoded_at_a_fraction_of_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.linear_gradient("L").resize((512, 512)).convert("RGB").save(tmp_path / "x.jpg", quality=95)
    exact = decode(tmp_path / "x.jpg", HOW)
    monkeypatch.setattr(decode_module, "DRAFT", 10_000)
    monkeypatch.setattr(decode_module, "LARGEST", 200 * 200)  # a quarter of the size has 128 × 128 pixels
    assert np.abs(decode(tmp_path / "x.jpg", HOW).astype(int) - exact).max() <= 3


def test_damaged_files_are_named_with_a_reason(tmp_path: Path) -> None:
    root = fill(tmp_path / "data")
    (root / "0.png").write_bytes((root / "0.png").read_bytes()[:-40])
    (root / "1.png").write_bytes(b"")
    with pytest.raises(CorruptFileError) as caught:
        ImageFolder(str(root), image_size=8, val_fraction=0.0, test_fraction=0.0).table("train")
    assert str(caught.value).count("\n") == 0
    assert "0.png: " in str(caught.value)
    assert "1.png: cannot identify image file: it is damaged, empty or no image" in str(caught.value)
