import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from patronus_pl.data import cache
from patronus_pl.data.cache import Decoded, cache_folder, decode_all
from patronus_pl.data.decode import Preprocessing, decode
from patronus_pl.errors import CorruptFileError, DatasetNotFoundError, OutputError

from .trees import picture

HOW = Preprocessing(16, 3, "none")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """More than two blocks of images."""
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{i:03d}.png" for i in range(150)]
    for i, path in enumerate(paths):
        picture(i, 20, 20).save(path)
    return paths


def decoded(files: list[Path], how: Preprocessing = HOW, max_unreadable: float = 0.0, in_memory_mb: int = 1) -> Decoded:
    root = files[0].parent
    return decode_all(files, root, how, root.parent / "cache", "train", max_unreadable, in_memory_mb)


def kept(files: list[Path]) -> set[str]:
    return {path.name for path in (files[0].parent.parent / "cache").iterdir()} - {".lock"}


def test_holds_each_file_in_its_row(files: list[Path]) -> None:
    images, unreadable = decoded(files)
    assert unreadable == {}
    assert np.array_equal(images, np.stack([decode(path, HOW) for path in files]))


def test_decodes_once(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = decoded(files).images
    monkeypatch.setattr(cache, "decode", None)
    assert np.array_equal(decoded(files).images, first)


def test_mapped_beyond_the_threshold(files: list[Path]) -> None:
    assert not isinstance(decoded(files, in_memory_mb=1).images, np.memmap)
    mapped = decoded(files, in_memory_mb=0).images
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable


def test_another_preprocessing_or_file_is_another_cache(files: list[Path]) -> None:
    decoded(files)
    picture(999, 20, 20).save(files[3])
    os.utime(files[3], ns=(0, 0))
    assert np.array_equal(decoded(files).images[3], decode(files[3], HOW))
    assert np.array_equal(decoded(files, Preprocessing(8, 3, "none")).images[3].shape, (3, 8, 8))
    decoded(files[:-1])
    assert len(kept(files)) == 4 * 2


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "other description", "no description"])
def test_a_damaged_cache_is_made_again(files: list[Path], damage: str) -> None:
    whole = decoded(files).images.copy()
    (array,) = (files[0].parent.parent / "cache").glob("*.npy")
    description = array.with_suffix(".json")
    data = array.read_bytes()
    if damage == "truncated":
        array.write_bytes(data[:-100])
    elif damage == "zeroed":
        array.write_bytes(data[:-1000] + bytes(1000))
    elif damage == "other description":
        description.write_text(json.dumps({**json.loads(description.read_text()), "key": "0"}))
    else:
        description.unlink()
    assert np.array_equal(decoded(files).images, whole)
    assert array.read_bytes() == data


def test_unreadable_files_are_named_and_skipped_below_the_share(files: list[Path]) -> None:
    files[70].write_bytes(files[70].read_bytes()[:60])
    files[149].write_text("no image")
    images, unreadable = decoded(files, max_unreadable=0.02)
    assert set(unreadable) == {70, 149}
    assert "070.png" in unreadable[70]
    assert "cannot identify image file" in unreadable[149]
    assert (images[70] == 0).all()
    assert decoded(files, max_unreadable=0.02).unreadable == unreadable
    with pytest.raises(
        CorruptFileError, match=r"2 of 150 images are unreadable, more than data.max_unreadable = 0.01.*070"
    ):
        decoded(files, max_unreadable=0.01)


def test_missing_files_are_named(files: list[Path]) -> None:
    files[5].unlink()
    files[9].unlink()
    with pytest.raises(DatasetNotFoundError, match=r"train: 2 of 150 images are missing, first .*005.png"):
        decoded(files)


def test_a_full_disk_leaves_nothing(files: list[Path]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))  # the cache has 115,200 bytes
    try:
        with pytest.raises(OutputError, match=r"cannot write the cache .*needs 1 MB: make room or set data.cache_dir"):
            decoded(files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept(files) == set()
    assert len(decoded(files).images) == 150


def test_a_folder_that_cannot_be_made(files: list[Path]) -> None:
    (files[0].parent.parent / "cache").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot cache images in .*set data.cache_dir to a writable folder"):
        decoded(files)


SLOW_BUILD = """
import sys, time
from pathlib import Path
from patronus_pl.data import cache
from patronus_pl.data.decode import Preprocessing, decode
def slow(path, how):
    time.sleep(float(sys.argv[2]))
    return decode(path, how)
cache.decode = slow
files = sorted(Path(sys.argv[1], "images").iterdir())
cache.decode_all(files, files[0].parent, Preprocessing(16, 3, "none"), Path(sys.argv[1], "cache"), "train")

"""


def build_elsewhere(files: list[Path], delay: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_BUILD, str(files[0].parent.parent), str(delay)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_run_leaves_no_half_cache(files: list[Path]) -> None:
    run = build_elsewhere(files, delay=0.05)
    deadline = time.monotonic() + 60
    while not list((files[0].parent.parent).glob("cache/*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert {Path(name).suffix for name in kept(files)} == {".partial"}
    assert np.array_equal(decoded(files).images[149], decode(files[149], HOW))
    assert {Path(name).suffix for name in kept(files)} == {".npy", ".json"}


def test_two_processes_build_once(files: list[Path]) -> None:
    runs = [build_elsewhere(files, delay=0.005) for _ in range(2)]
    bars = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum("caching train" in bar for bar in bars) == 1


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder(tmp_path, None) == tmp_path / ".patronus_cache"
    assert cache_folder(tmp_path, "/elsewhere") == Path("/elsewhere")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/.cache")
    assert cache_folder(tmp_path, None) == Path("/home/me/.cache/patronus_pl")


def test_no_files_no_cache(tmp_path: Path) -> None:
    images, unreadable = decode_all([], tmp_path, HOW, tmp_path / "cache", "val")
    assert images.shape == (0, 3, 16, 16)
    assert unreadable == {}
    assert not (tmp_path / "cache").exists()
