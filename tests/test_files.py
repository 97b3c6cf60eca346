import os
import resource
from pathlib import Path

import pytest
import torch

from patronus_pl.errors import OutputError
from patronus_pl.files import replacing


def test_a_whole_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    path.write_bytes(b"old")
    with replacing(path, "choose another") as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_the_old_one_stays_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    path.write_bytes(b"old")
    writing = replacing(path, "choose another")
    writing.__enter__().write(b"ne")
    assert not writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)  # it goes on to whoever interrupts
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    wanted = r"cannot write '.*nowhere/x.npz' \(No such file or directory\); choose another --out"
    with pytest.raises(OutputError, match=wanted), replacing(tmp_path / "nowhere/x.npz", "choose another --out"):
        raise AssertionError("not reached")


def test_what_torch_cannot_write_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save hides the OSError of a full disk behind a RuntimeError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        wanted = r"cannot write '.*x.ckpt' \(File too large\); make room"
        with pytest.raises(OutputError, match=wanted), replacing(tmp_path / "x.ckpt", "make room") as file:
            torch.save({"weights": torch.zeros(10_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_other_faults_of_the_writer_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), replacing(tmp_path / "x", "choose another"):
        raise RuntimeError("mine")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_later(tmp_path: Path) -> None:
    path, old, new, other = (tmp_path / name for name in ("x", ".x.1.part", ".x.2.part", ".y.1.part"))
    for part in (old, new, other):
        part.write_bytes(b"half")
    for part in (old, other):
        os.utime(part, (0, 0))
    with replacing(path, "choose another") as file:
        file.write(b"whole")
    assert {entry.name for entry in tmp_path.iterdir()} == {"x", ".x.2.part", ".y.1.part"}
