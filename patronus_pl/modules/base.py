"""`DiffusionModule`: the training recipe that the model of images and the prior over activations share."""

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any, TypeVar, cast

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from patronus_pl.diffusion import Denoiser, NoiseSchedule, Prediction
from patronus_pl.errors import InvalidOptionError, TrainingDivergedError
from patronus_pl.modules.checkpoint import load_module
from patronus_pl.modules.step_draw import StepDraw
from patronus_pl.modules.translation import translate
from patronus_pl.types import Timesteps

FIRST_VALIDATION_STEP = 1 << 31  # no training run has as many steps: the two never share their noise

Module = TypeVar("Module", bound="DiffusionModule")


class DiffusionModule(pl.LightningModule):
    """A denoiser under a noise schedule, trained with AdamW, warm-up and cosine decay.

    Attributes:
        schedule: the noise levels t = 0..T-1.
        prediction: what the network predicts, and how its errors are weighed.
        lr: learning rate of AdamW after warm-up.
        weight_decay: weight decay of AdamW; 0.01 unless a module says otherwise.
        warmup_steps: optimiser steps of linear warm-up.
        final_lr: share of `lr` that is left at the end of a cosine decay.
        seed: seed of the noise and timesteps of training.
    """

    schedule: NoiseSchedule
    prediction: Prediction
    lr: float
    weight_decay: float = 0.01
    warmup_steps: int
    final_lr: float
    seed: int

    def check_recipe(self) -> None:
        """Refuse a recipe that cannot train.

        Raises:
            InvalidOptionError: a learning rate that is not positive, a negative seed, number of steps or decay, or a
                final share outside [0, 1].
        """
        if self.lr <= 0:
            raise InvalidOptionError(f"model.lr is {self.lr}; it must be positive")
        for name in ("seed", "warmup_steps", "weight_decay"):
            if getattr(self, name) < 0:
                raise InvalidOptionError(f"model.{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.final_lr <= 1:
            raise InvalidOptionError(f"model.final_lr is {self.final_lr}; it is a share of lr, so choose 0 to 1")

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls: type[Module], checkpoint_path: str | Path, map_location: str | torch.device = "cpu", **overrides: Any
    ) -> Module:
        """Return a trained model: EMA weights (where training kept them), in evaluation mode.

        Args:
            checkpoint_path: file that `patronus fit` or `patronus import-reference` wrote.
            map_location: device to put the model on.
            overrides: constructor arguments that replace those in the file, such as `lr`.

        Raises:
            CheckpointError: no such file, a truncated one, one of another class, or one that needs other parts.
        """
        return load_module(cls, checkpoint_path, **overrides).to(map_location).eval()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Bring a checkpoint of an earlier version, from which training goes on, into the present form."""
        translate(checkpoint)

    # ------------------------------------------------------------------------------------------- ranks and randomness

    def all_ranks(self, rows: Float[Tensor, "b *rest"]) -> Float[Tensor, "all *rest"]:
        """Return the rows of every rank's batch, in the order of a single device, with gradients."""
        if self.trainer.world_size == 1:
            return rows
        return cast(Tensor, self.all_gather(rows, sync_grads=True)).transpose(0, 1).flatten(0, 1)

    def draw(self, batch: Tensor, step: int) -> StepDraw:
        """Return the random numbers for a batch, the same for every run with this seed."""
        if self._trainer is None:
            return StepDraw(batch, self.seed, step)
        ranks, rank = self.trainer.world_size, self.trainer.global_rank
        return StepDraw(batch, self.seed, step, ranks, rank, self._together(len(batch), step, ranks, rank))

    def _together(self, rows: int, step: int, ranks: int, rank: int) -> int:
        """Return how many rows the batches of all ranks hold; the last ones of an evaluation may differ by one."""
        if ranks == 1 or step < FIRST_VALIDATION_STEP:
            return rows * ranks
        trainer = self.trainer
        loader: Any = trainer.val_dataloaders
        if trainer.testing or trainer.predicting:
            loader = trainer.test_dataloaders if trainer.testing else trainer.predict_dataloaders
        whole = loader.batch_size * ranks
        together: int = min(whole, len(loader.dataset) - (step - FIRST_VALIDATION_STEP) * whole)
        # A loader that is not shared row by row, such as one of the user's, goes without this.
        return together if len(range(rank, together, ranks)) == rows else rows * ranks

    def draw_index(self, batch_idx: int) -> int:
        """Return the `step` for `draw`: in training that of the optimiser, otherwise the same after every epoch."""
        if not self.training:
            return FIRST_VALIDATION_STEP + batch_idx
        # Batches whose gradients are summed into one optimiser step have numbers of their own each.
        batches = self.trainer.accumulate_grad_batches
        return self.trainer.global_step * batches + batch_idx % batches

    def noised(
        self, x_0: Float[Tensor, "b *shape"], draw: StepDraw, descending: bool = False
    ) -> tuple[Float[Tensor, "b *shape"], Timesteps]:
        """Return x_t and t of a batch, with the noise and timesteps of a draw; see `StepDraw.timesteps`."""
        noise = draw.normal(x_0.shape[1:]).to(x_0.dtype)
        t = draw.timesteps(self.schedule.timesteps, self.prediction.timestep_power, descending)
        return self.schedule.add_noise(x_0, noise, t), t

    def denoising_loss(self, x_0: Float[Tensor, "b *shape"], denoiser: Denoiser, step: int) -> Float[Tensor, " b"]:
        """Return w(SNR) ‖x_0 - D(x_t, t)‖² of every row, with the noise and timesteps of that step's draw."""
        x_t, t = self.noised(x_0, self.draw(x_0, step))
        return self.prediction.loss(x_0, denoiser(x_t, t), t, self.schedule)

    def log_mean(self, name: str, values: Float[Tensor, " b"], prog_bar: bool = False) -> None:
        """Log the mean over all rows of an evaluation: every row counts once, whatever batch and rank it was in.

        Every rank has to call it in every batch, with no values where it has none.
        """
        # Lightning takes the mean of the ranks' numbers of rows, and cuts it off to a whole number. Multiplied by the
        # number of ranks, it is one.
        rows = len(values) * self.trainer.world_size
        mean = values.mean() if len(values) else values.new_zeros(())
        self.log(name, mean, prog_bar=prog_bar, sync_dist=True, batch_size=rows)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the losses of a batch of the validation split."""
        self.evaluate(batch, batch_idx, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the losses of a batch of the test split."""
        self.evaluate(batch, batch_idx, "test")

    @abstractmethod
    def evaluate(self, batch: dict[str, Any], batch_idx: int, stage: str) -> None:
        """Log the losses of a batch under names that begin with the stage."""

    # ------------------------------------------------------------------------------------------------- the optimiser

    def on_before_backward(self, loss: Tensor) -> None:
        """Stop at the first loss that is no number, before it reaches the weights."""
        # On a GPU reading the loss waits for the device, so it is read now and then.
        if (loss.device.type == "cpu" or self.trainer.global_step % 50 == 0) and not math.isfinite(loss.item()):
            raise TrainingDivergedError(
                f"the loss is {loss.item()} at step {self.trainer.global_step}; the last good checkpoint is kept. "
                "Lower model.lr or raise model.warmup_steps, and resume with --ckpt_path"
            )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, which needlessly refuses fused optimisers under bfloat16."""
        if self.trainer.precision == "bf16-mixed":  # only float16 scales its loss
            Precision.clip_gradients(
                self.trainer.precision_plugin,
                optimizer,
                gradient_clip_val or 0.0,
                GradClipAlgorithmType(gradient_clip_algorithm or "norm"),
            )
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with linear warm-up, then cosine decay to `final_lr`."""
        # Fused AdamW is eight times faster on a CPU; float16's loss scaling is the one thing it does not go with.
        fused = self.trainer.precision != "16-mixed"
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        total = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
            progress = min(1.0, step / total)
            return warm * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
