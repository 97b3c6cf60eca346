"""`EMA`: Lightning's exponential moving average of the weights, with warm-up."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Average the weights; validate, save and finish with the average.

    θ̄ ← d_n θ̄ + (1 - d_n) θ with d_n = min(decay, (1 + n) / (10 + n)) after n steps: without this warm-up the average
    would remember the random start for 1 / (1 - decay) steps. The checkpoint's `state_dict` is the average,
    `current_model_state` the raw weights. Must be the last callback: one listed after it sees the raw weights.

    Args:
        decay: d, share of the old average that is kept a step.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay
        self._steps = 0
        self._swapped = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the average, in the precision that the model is about to get."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            trainer.precision_plugin.convert_module(self._average_model)

    def _average(self, averages: Sequence[Tensor], new: Sequence[Tensor], _updates: Tensor | int) -> None:
        kept = min(self.decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(list(averages), list(new), 1 - kept)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average after every optimiser step."""
        # The trainer's count is restored by a resume and, unlike the average's own, is read without waiting for a GPU.
        self._steps = trainer.global_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the model the average for a validation, unless there is none yet (the sanity check)."""
        if trainer.global_step > 0:
            super().on_validation_epoch_start(trainer, pl_module)
            self._swapped = self._average_model is not None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the model its own weights back."""
        if self._swapped:
            super().on_validation_epoch_end(trainer, pl_module)
            self._swapped = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the model, unless there is none."""
        if self._average_model is not None:
            if not self._swapped:
                # `Checkpoint(minutes=...)` saves at the end of a step, before this callback has averaged it.
                self.on_train_batch_end(trainer, pl_module, None, None, 0)
            checkpoint.setdefault("callbacks", {})[self.state_key] = self.state_dict()
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            if self._swapped:  # a validation is interrupted
                average, current = checkpoint["current_model_state"], checkpoint["state_dict"]
                checkpoint |= {"state_dict": average, "current_model_state": current}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore raw weights and average when training goes on; testing loads the average alone."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
