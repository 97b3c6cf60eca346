from pathlib import Path

import pytest

from patronus_pl.errors import OutputError
from patronus_pl.runs import writable_file


def test_the_folder_of_a_file_is_made(tmp_path: Path) -> None:
    path = writable_file(str(tmp_path / "new" / "s.npz"))
    path.write_bytes(b"")
    assert path == tmp_path / "new" / "s.npz"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"--out '.*' is a folder; name a file, such as '.*out.npz'"):
        writable_file(str(tmp_path))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write to '.*taken' .*; choose another --out"):
        writable_file(str(tmp_path / "taken" / "s.npz"))
