"""Find the image files below a folder, through links and with names in any encoding."""

import os
from pathlib import Path
from typing import NamedTuple

from patronus_pl.data.decode import EXTENSIONS
from patronus_pl.errors import CorruptFileError


class Found(NamedTuple):
    """What lies below a folder, each sorted by path."""

    images: list[Path]
    others: list[Path]
    """Files that are no images by their extension."""
    broken: list[Path]
    """Links whose target does not exist."""


def scan(root: Path) -> Found:
    """List the files below a folder at any depth, hidden ones left out.

    Links to files and folders are followed. Every folder is read once, so that links in a circle end, and so that a
    folder that is linked twice gives its images once.

    Raises:
        CorruptFileError: a folder cannot be read.
    """
    found = Found([], [], [])
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    links: list[Path] = []
    while waiting or links:
        # Real folders come first: an image keeps the name it has there, not that of a link.
        folder = waiting.pop() if waiting else links.pop(0)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in _entries(folder):
            path = folder / entry.name
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else waiting).append(path)
                elif entry.is_file():
                    (found.images if path.suffix.lower() in EXTENSIONS else found.others).append(path)
                elif entry.is_symlink():
                    found.broken.append(path)
            except OSError:  # a link to itself
                found.broken.append(path)
    return Found(*(sorted(paths) for paths in found))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except OSError as error:
        raise CorruptFileError(f"cannot read the folder {folder} ({error.strerror}); mend its permissions") from error
    return sorted(visible, key=lambda entry: entry.name)


def name_below(root: Path, path: Path) -> str:
    """Return the path of a file from the root, with `/`, in characters that can be printed.

    Bytes of the name that are no UTF-8 become `\\xNN`.
    """
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
