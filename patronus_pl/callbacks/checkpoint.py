"""`Checkpoint`: write the last and the best weights, and the last ones again when a signal ends the run."""

import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from patronus_pl.data.stored import keep_split_rule
from patronus_pl.errors import OutputError
from patronus_pl.files import replacing

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; `docker stop`, pre-emption and `kill`; a terminal that is closed."""
REQUEUE = signal.SIGUSR1
"""What SLURM sends before it ends a job that it starts again (`#SBATCH --signal=SIGUSR1@90`)."""


class WholeCheckpoints(TorchCheckpointIO):
    """Write checkpoints beside their place and rename them, and raise an error when one cannot be written.

    Lightning's own writes to TMPDIR, copies over the old file where that is another disk, and ignores a
    PermissionError.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a file; a URL such as s3://... is left to Lightning.

        Raises:
            OutputError: the file cannot be written.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file, remedy = Path(path), "make room or get permission, and resume with --ckpt_path last"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {str(path)!r} ({error.strerror}); {remedy}") from error
        with replacing(file, remedy) as stream:
            torch.save(checkpoint, stream)


def write_whole_checkpoints(trainer: pl.Trainer) -> None:
    """Put `WholeCheckpoints` in the place of Lightning's way of writing, unless the user chose another one."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()


class Checkpoint(ModelCheckpoint):
    """Write `checkpoints/last.ckpt` and `checkpoints/best.ckpt`: Lightning's `ModelCheckpoint` with fixed names.

    Ctrl-C, SIGTERM and SIGHUP let the current step end, write `last.ckpt`, and end the run with exit code 128 + the
    number of the signal; a second Ctrl-C does not wait for the step. SLURM's SIGUSR1 does the same and has the job
    started again. After any other error the files stay as they were: weights that made the loss infinite must not
    replace good ones.

    Args:
        monitor: logged number that `best` minimises.
        minutes: also write `last` after so many minutes, however long an epoch takes; None for epochs only.
    """

    def __init__(self, monitor: str = "val/loss", minutes: float | None = None) -> None:
        super().__init__(
            filename="best",
            monitor=None if minutes else monitor,
            save_last=True,
            save_on_train_epoch_end=False,  # a resumed run ends its first epoch before anything is validated
            enable_version_counter=False,
            train_time_interval=timedelta(minutes=minutes) if minutes else None,
        )
        self._signal = 0
        self._requeue: Callable[[int, FrameType | None], Any] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Choose the folder, and how files are written to it."""
        super().setup(trainer, pl_module, stage)
        write_whole_checkpoints(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forget the best of the run that is resumed: this run writes to a folder of its own."""

    # ------------------------------------------------------------------------------------------------ regular saving

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Split the images as the checkpoint did, if version 0.1 wrote it."""
        keep_split_rule(getattr(trainer, "datamodule", None), checkpoint)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save `best` if it is, and `last` in any case: Lightning writes it only together with a new best."""
        super().on_validation_end(trainer, pl_module)
        self._save_if_new(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the steps since the last validation."""
        self._save_if_new(trainer)

    def _save_if_new(self, trainer: pl.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    # ----------------------------------------------------------------------------------------------------- signals

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from Lightning the signals that end a run; Lightning gives them back when the run has ended.

        Its own way broadcasts inside the handler, in the middle of whatever the processes exchange at that moment.
        """
        super().on_train_start(trainer, pl_module)
        self._signal = 0
        if trainer.fast_dev_run or threading.current_thread() is not threading.main_thread():  # type: ignore[attr-defined]
            return
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._stop)
        if callable(handler := signal.getsignal(REQUEUE)):
            self._requeue = handler
            signal.signal(REQUEUE, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = self._signal or number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the run when the step is complete, if a signal came."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._end_together(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End the run without waiting for the rest of the validation, if a signal came.

        Several processes do wait for it: they may have different numbers of batches, and so cannot agree on one.
        """
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and trainer.world_size == 1:
            self._end_together(trainer)

    def _end_together(self, trainer: pl.Trainer) -> None:
        # A signal may reach one process alone, and at different steps: all of them end after the same one.
        if trainer.world_size > 1:
            number = torch.tensor(self._signal, device=trainer.strategy.root_device)
            distributed.all_reduce(number, distributed.ReduceOp.MAX)
            self._signal = int(number)
        if self._signal:
            # Lightning then raises SIGTERMException where the step is counted and no further batch is fetched.
            trainer._signal_connector.received_sigterm = True

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save `last` if a signal or the user ended a run that has taken at least one step."""
        stopped = isinstance(exception, (KeyboardInterrupt, SIGTERMException))
        if not stopped or trainer.global_step == 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        number = self._signal or (signal.SIGINT if isinstance(exception, KeyboardInterrupt) else signal.SIGTERM)
        rank_zero_info(
            f"{signal.Signals(number).name} ended the run at step {trainer.global_step}; "
            f"go on with --ckpt_path {os.path.relpath(self.last_model_path)}"
        )
        if number == REQUEUE and self._requeue is not None:
            self._requeue(number, None)
        if isinstance(exception, SIGTERMException):
            exception.code = 128 + number
