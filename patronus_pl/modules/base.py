"""`DiffusionModule`: what the model of images and the prior over activations have in common."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from patronus_pl.diffusion import Denoise, NoiseSchedule, NoiseSource, Step, samplers
from patronus_pl.diffusion.sampling import Sampler
from patronus_pl.errors import InvalidOptionError, TrainingDivergedError
from patronus_pl.modules.checkpoint import load_module
from patronus_pl.types import Timesteps, at_least_float32

Prediction = Literal["v", "epsilon"]
Network = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> prediction, shaped like x_t."""
FIRST_VALIDATION_STEP = 1 << 31  # no training run has as many: the two never share their noise

Module = TypeVar("Module", bound="DiffusionModule")


class DiffusionModule(pl.LightningModule):
    """A network that predicts v, ε or x_0 under a noise schedule, trained by one recipe.

    Attributes:
        schedule: the noise levels t = 0..T-1.
        prediction: what the network predicts.
        lr: learning rate of AdamW after warm-up.
        weight_decay: of AdamW.
        warmup_steps: optimiser steps of linear warm-up.
        final_lr: share of `lr` that is left at the end of a cosine decay.
        seed: of the noise and timesteps of training.
    """

    schedule: NoiseSchedule
    prediction: Prediction
    lr: float
    weight_decay: float
    warmup_steps: int
    final_lr: float
    seed: int

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls: type[Module], checkpoint_path: str | Path, map_location: str | torch.device = "cpu", **overrides: Any
    ) -> Module:
        """A trained model: EMA weights (where training kept them), in evaluation mode.

        Args:
            checkpoint_path: what `patronus fit` or `patronus import-reference` wrote.
            map_location: device to put it on.
            overrides: constructor arguments that replace those in the file, such as `lr`.

        Raises:
            CheckpointError: no such file, a truncated one, one of another class, or one that needs other parts.
        """
        return load_module(cls, checkpoint_path, **overrides).to(map_location).eval()

    # ------------------------------------------------------------------------------------------- networks as denoisers

    def denoising_loss(
        self, network: Network, x_0: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], t: Timesteps
    ) -> Float[Tensor, " b"]:
        """‖target - network(x_t, t)‖² of every row, mean over its entries; target = v = √ᾱ ε - √(1-ᾱ) x_0, or ε."""
        return self.prediction_loss(network(self.schedule.add_noise(x_0, noise, t), t), x_0, noise, t)

    def prediction_loss(
        self,
        output: Float[Tensor, "b *shape"],
        x_0: Float[Tensor, "b *shape"],
        noise: Float[Tensor, "b *shape"],
        t: Timesteps,
    ) -> Float[Tensor, " b"]:
        """‖target - output‖² of every row, mean over its entries."""
        target = noise if self.prediction == "epsilon" else self.schedule.velocity(x_0, noise, t)
        return F.mse_loss(at_least_float32(output), target, reduction="none").flatten(1).mean(1)

    def noise_predictor(self, network: Network) -> Denoise:
        """`denoise(x_t, t) -> noise`, as samplers want it."""

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            output = at_least_float32(network(x_t, t))
            return output if self.prediction == "epsilon" else self.schedule.noise_from_velocity(output, x_t, t)

        return denoise

    def sampler_steps(
        self,
        sampler: Sampler,
        denoise: Denoise,
        x_T: Tensor,
        steps: int,
        eta: float = 0.0,
        clip: bool = False,
        noise: NoiseSource | None = None,
    ) -> Iterator[Step]:
        """Steps of the sampler of that name.

        Raises:
            InvalidOptionError: no such sampler, or one that needs noise and has none.
        """
        if sampler == "ddpm":
            if noise is None:
                raise InvalidOptionError("sampler ddpm is random; pass noise=NoiseSource(seed, indices), or use ddim")
            return samplers.ddpm(denoise, x_T, self.schedule, steps, noise=noise, clip=clip)
        if sampler == "ddim":
            return samplers.ddim(denoise, x_T, self.schedule, steps, eta=eta, noise=noise, clip=clip)
        if sampler == "dpm++":
            return samplers.dpm_solver_pp(denoise, x_T, self.schedule, steps, clip=clip)
        raise InvalidOptionError(f"unknown sampler {sampler!r}; choose ddpm, ddim or dpm++")

    # ---------------------------------------------------------------------------------------------------- the recipe

    def draw(self, batch: Tensor, step: int) -> "StepDraw":
        """Random numbers for a batch, the same for every run of this seed."""
        if self._trainer is None:
            return StepDraw(batch, self.seed, step)
        ranks, rank = self.trainer.world_size, self.trainer.global_rank
        return StepDraw(batch, self.seed, step, ranks, rank, self._together(len(batch), step, ranks, rank))

    def _together(self, rows: int, step: int, ranks: int, rank: int) -> int:
        """How many rows the batches of all ranks hold. Only the last batch of an evaluation may be of unequal parts."""
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

    def log_mean(self, name: str, values: Float[Tensor, " b"], prog_bar: bool = False) -> None:
        """Log the mean over all rows of an evaluation: every row counts once, whatever batch and rank it was in.

        To be called by every rank in every batch, with no values where it has none.
        """
        # Lightning takes the mean of the ranks' numbers of rows, and cuts it off to a whole number. Multiplied by the
        # number of ranks, it is one.
        rows = len(values) * self.trainer.world_size
        mean = values.mean() if len(values) else values.new_zeros(())
        self.log(name, mean, prog_bar=prog_bar, sync_dist=True, batch_size=rows)

    def draw_index(self, batch_idx: int) -> int:
        """The `step` of `draw`: while training that of the optimiser, otherwise the same after every epoch."""
        if not self.training:
            return FIRST_VALIDATION_STEP + batch_idx
        # Batches whose gradients are summed into one optimiser step have numbers of their own each.
        batches = self.trainer.accumulate_grad_batches
        return self.trainer.global_step * batches + batch_idx % batches

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
        """As Lightning does, which needlessly refuses fused optimisers under bfloat16: only float16 scales its loss."""
        if self.trainer.precision == "bf16-mixed":
            Precision.clip_gradients(
                self.trainer.precision_plugin,
                optimizer,
                gradient_clip_val or 0.0,
                GradClipAlgorithmType(gradient_clip_algorithm or "norm"),
            )
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with linear warm-up, then cosine decay to `final_lr`."""
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


class StepDraw:
    """Random numbers of one step: a function of (seed, step), whatever was drawn before.

    Drawn for the batches of all ranks, of which each takes its own rows: a resumed run, or one on another number of
    devices, draws the same.

    Args:
        batch: this rank's, of which the number of rows and the device count.
        seed: of the run.
        step: of all draws of the run, which one.
        ranks: how many devices train.
        rank: which of them this is.
        total: rows of all ranks; by default all have as many.
    """

    def __init__(
        self, batch: Tensor, seed: int, step: int, ranks: int = 1, rank: int = 0, total: int | None = None
    ) -> None:
        self.ranks, self.rank = ranks, rank
        self.total, self.device = len(batch) * ranks if total is None else total, batch.device
        # Hashed into one number, since torch's CPU generator keeps only the lower 32 bits of a seed.
        (number,) = np.random.SeedSequence(seed, spawn_key=(step,)).generate_state(1).tolist()
        self.generator = torch.Generator(batch.device).manual_seed(number)

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Standard normal numbers, of the given shape for every row."""
        drawn = torch.randn((self.total, *shape), generator=self.generator, device=self.device)
        return drawn[self.rows]

    @property
    def rows(self) -> slice:
        """This rank's among those of all ranks."""
        return slice(self.rank, None, self.ranks)

    def uniform(self, columns: int) -> Float[Tensor, "b columns"]:
        """Numbers in [0, 1)."""
        return torch.rand(self.total, columns, generator=self.generator, device=self.device)[self.rows]

    def timesteps(self, count: int, power: float = 1.0, descending: bool = False) -> Timesteps:
        """Steps ⌊T u^(1/power)⌋, u stratified: every batch covers all noise levels, and the loss varies less.

        Args:
            count: T.
            power: above 1 favours noisy steps.
            descending: the noisiest first, for batches that are in no order anyway.
        """
        strata = torch.randperm(self.total, generator=self.generator, device=self.device)
        if descending:
            strata = torch.arange(self.total - 1, -1, -1, device=self.device)
        u = (strata + torch.rand(self.total, generator=self.generator, device=self.device)) / self.total
        t = (u.pow(1 / power) * count).long().clamp_max(count - 1)
        return t[self.rows]
