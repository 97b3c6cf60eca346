from pathlib import Path

import pytest

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
