"""`RunFolder`: a folder that belongs to one run alone."""

import os
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from patronus_pl.errors import OutputError

TRIES = 1000
"""Runs, at most, that start at the same moment under one name."""


class RunFolder:
    """Take the folder of a logger before anything is written to it, and remove it if nothing came of the run."""

    def __init__(self) -> None:
        self._made: list[Path] = []

    def claim(self, trainer: Trainer) -> None:
        """Make the folder; where another process was faster, that of the next version.

        Raises:
            OutputError: the user named a version that holds a run, or the folder cannot be made.
        """
        root = trainer.default_root_dir
        if not trainer.loggers and not trainer.fast_dev_run and Path(root, "config.yaml").is_file():  # type: ignore[attr-defined]
            raise OutputError(f"{root!r} holds a run; choose another folder with --trainer.default_root_dir")
        for logger in trainer.loggers:
            if isinstance(logger, (CSVLogger, TensorBoardLogger)) and trainer.is_global_zero:
                self._claim(logger, named=logger._version is not None)

    def _claim(self, logger: Any, named: bool) -> None:
        path = Path(logger.log_dir)
        again = named and int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
        if (path / "config.yaml").is_file() and named and not again:
            raise OutputError(f"{str(path)!r} holds a run; choose another version, or leave it out")
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for _ in range(TRIES):
            try:
                Path(logger.log_dir).mkdir(parents=True, exist_ok=named)
            except FileExistsError:
                # Lightning counts the folders that are there; another process has just made the same one.
                logger._version = int(logger.version) + 1
            except OSError as error:
                raise OutputError(f"cannot write to {str(path)!r} ({error.strerror}); choose another folder") from error
            else:
                break
        self._made += [Path(logger.log_dir)] * (path in missing) + missing[1:]

    def remove_if_unused(self) -> None:
        """Remove what was made for a run that ended before its first result."""
        for folder in self._made[:1]:
            if not any(folder.rglob("*.ckpt")):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self._made[1:]:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
