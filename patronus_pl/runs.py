"""What a run leaves and where: its folder, its last checkpoint, and whether a folder can be written to."""

import tempfile
from pathlib import Path

from patronus_pl.errors import CheckpointError, OutputError


def find_checkpoint(path: str) -> Path:
    """A checkpoint: the file itself, or `last.ckpt` of the newest run below a folder such as `runs/quickstart`.

    Raises:
        CheckpointError: the folder holds none.
    """
    if not Path(path).is_dir():
        return Path(path)
    found = sorted(Path(path).rglob("checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise CheckpointError(f"no checkpoints/last.ckpt below {path!r}; train one with `patronus fit`")
    return found[-1]


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def writable_folder(path: Path, option: str = "--out") -> Path:
    """The folder, made if need be.

    Args:
        path: of the folder.
        option: that chooses another, for the error.

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
    """The path of a file that can be written, its folder made if need be: to be asked before the work.

    Args:
        path: of the file.
        option: that chooses another, for the error.

    Raises:
        OutputError: it is a folder, or its folder cannot be made or written to.
    """
    if Path(path).is_dir():
        raise OutputError(f"{option} {path!r} is a folder; name a file, such as {str(Path(path) / 'out.npz')!r}")
    writable_folder(Path(path).parent, option)
    return Path(path)
