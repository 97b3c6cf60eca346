"""Write files that are there whole or not at all. Everything in the package that replaces a file does it here."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from patronus_pl.errors import OutputError

ABANDONED = 3600.0
"""Seconds after which a partial file is taken for the remains of a killed process, and removed."""


@contextmanager
def replacing(path: Path, remedy: str) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of `path` when the block ends without an error.

    The bytes go to a hidden file beside `path`, reach the disk, and are renamed: a full disk, an exception, a signal
    or a kill leaves under `path` what was there before.

    Args:
        path: file to write or to replace, in a folder that exists.
        remedy: what to do if it cannot be written, as "choose another --out".

    Raises:
        OutputError: the file cannot be written.
    """
    # Beside the target, because a rename is atomic within one disk only, and TMPDIR may be another one or full.
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    _remove_abandoned(path)
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        # torch.save hides the OSError of a full disk behind a RuntimeError about positions in its archive.
        cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OutputError(f"cannot write {str(path)!r} ({cause.strerror or cause}); {remedy}") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of the same file, and what would otherwise fill the disk."""
    with suppress(OSError):
        for part in path.parent.iterdir():
            mine = part.name.startswith(f".{path.name}.") and part.name.endswith(".part")
            if mine and time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
