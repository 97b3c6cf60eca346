"""Find the checkpoint and the folder of a run, and ask before the work whether a folder can be written to."""

import tempfile
from pathlib import Path

from patronus_pl.errors import CheckpointError, OutputError


def find_checkpoint(path: str, name: str = "last.ckpt") -> Path:
    """Return a checkpoint: the file itself, or the newest of that name in the runs below a folder.

    Args:
        path: a file, or a folder such as `runs/quickstart`.
        name: file to look for in a folder.

    Raises:
        CheckpointError: the folder holds none.
    """
    if not Path(path).is_dir():
        return Path(path)
    found = sorted(Path(path).rglob(f"checkpoints/{name}"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise CheckpointError(f"no checkpoints/{name} below {path!r}; train one with `patronus fit`")
    return found[-1]


def run_folder(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def writable_folder(path: Path, option: str = "--out") -> Path:
    """Make a folder if it is not there, and check that files can be written to it.

    Args:
        path: the folder.
        option: name of the option that chooses another one, for the error message.

    Raises:
        OutputError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise OutputError(f"cannot write to {str(path)!r} ({error.strerror}); choose another {option}") from error


def writable_file(path: str, option: str = "--out") -> Path:
    """Check, before the work, that a file can be written; its folder is made if it is not there.

    Args:
        path: the file.
        option: name of the option that chooses another one, for the error message.

    Raises:
        OutputError: it is a folder, or its folder cannot be made or written to.
    """
    if Path(path).is_dir():
        raise OutputError(f"{option} {path!r} is a folder; name a file, such as {str(Path(path) / 'out.npz')!r}")
    writable_folder(Path(path).parent, option)
    return Path(path)
