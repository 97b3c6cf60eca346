"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from patronus_pl.errors import OutputError


@contextmanager
def replacing(path: Path, remedy: str) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at the end; interrupted, it leaves what was there before.

    Args:
        path: file to write or to replace, in a folder that exists.
        remedy: what to do if it cannot be written, as "choose another --out".

    Raises:
        OutputError: it cannot be written.
    """
    # Beside it, for a rename within a disk; a temporary file of the system's would be closed to other users.
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            yield file
        os.replace(aside, path)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r} ({error.strerror or error}); {remedy}") from error
    finally:
        with suppress(OSError):
            aside.unlink()
