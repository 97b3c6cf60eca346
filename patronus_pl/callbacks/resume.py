"""`Resume`: let a run that goes on from a checkpoint use the rates and the time limit that it was given."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer
from torch.optim.lr_scheduler import LambdaLR


class Resume(pl.Callback):
    """Train with the learning rate and weight decay of the model, not with those that the checkpoint's optimiser had.

    Lightning restores the optimiser's groups and the scheduler's base rates, so that another `model.lr` would change
    nothing. The time limit `trainer.max_time` counts from the resume: it is a limit of a process, not of a model.
    `patronus fit` adds this callback.
    """

    def __init__(self) -> None:
        self._resumed = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave out the time that the first run took."""
        self._resumed = True
        for name in [key for key in checkpoint.get("callbacks", {}) if key.startswith(Timer.__name__)]:
            del checkpoint["callbacks"][name]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the rates, once everything is restored."""
        lr, decay = getattr(pl_module, "lr", None), getattr(pl_module, "weight_decay", None)
        if not self._resumed or not isinstance(lr, float) or not isinstance(decay, (int, float)):
            return
        for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
            for group in scheduler.optimizer.param_groups:
                group["weight_decay"] = decay
            # Another warm-up or decay takes effect with the scheduler's next step; another rate would not.
            if isinstance(scheduler, LambdaLR) and any(rate != lr for rate in scheduler.base_lrs):
                scheduler.base_lrs = [lr for _ in scheduler.base_lrs]
                for group, factor in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
                    group.update(initial_lr=lr, lr=lr * factor(scheduler.last_epoch))
