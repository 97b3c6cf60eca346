"""`Checkpoint`: last and best, and one more when training is interrupted."""

from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from patronus_pl.data.stored import keep_split_rule


class Checkpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint` as `checkpoints/{last,best}.ckpt`; Ctrl-C writes `last` before it ends the run.

    After any other error it stays as it was: weights that made the loss infinite must not replace good ones.

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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A resumed run writes to a folder of its own, and its best is the best since."""

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

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save `last` if the user interrupted a run that has taken at least one step."""
        if isinstance(exception, KeyboardInterrupt) and trainer.global_step > 0 and self._writes(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    @staticmethod
    def _writes(trainer: pl.Trainer) -> bool:
        return not getattr(trainer, "fast_dev_run", False)
