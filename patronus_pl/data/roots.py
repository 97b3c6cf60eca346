"""Find the folder and the files of a data set, or say in one line what is missing and how to get it."""

from pathlib import Path

from patronus_pl.errors import DatasetNotFoundError


def found_in(folder: Path) -> str:
    """Return the first names in a folder, for errors that say what was there instead."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join([*names[:5], "…"] if len(names) > 5 else names) or "nothing"


def require_file(path: Path, what: str, remedy: str) -> Path:
    """Return `path` if it is a file.

    Raises:
        DatasetNotFoundError: it is not; the message names it, what lies beside it, and the remedy.
    """
    if not path.is_file():
        beside = f"{path.parent} holds {found_in(path.parent)}" if path.parent.is_dir() else f"no folder {path.parent}"
        raise DatasetNotFoundError(f"{what}: no file {path.name} ({beside}); {remedy}")
    return path


def require_folder(root: str | None, what: str, remedy: str) -> Path:
    """Return `root` as a path if it is a folder.

    Raises:
        DatasetNotFoundError: it is not; the message names it, where a relative path was looked for, and the remedy.
    """
    if root is None:
        raise DatasetNotFoundError(f"{what} needs data.root; {remedy}")
    path = Path(root).expanduser()
    if not path.is_dir():
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise DatasetNotFoundError(f"{what}: no folder {str(path)!r}{where}; {remedy}")
    return path
