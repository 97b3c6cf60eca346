"""`LatentPrior`: where activations come from when there is no image, a diffusion model of s itself."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.denoiser import VectorNet
from patronus_pl.diffusion import NoiseSchedule, NoiseSource, Prediction, Sampler, Velocity, samplers
from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.modules.base import DiffusionModule
from patronus_pl.modules.checkpoint import configuration
from patronus_pl.types import Activations

FIRST_STREAM = 1 << 32  # the noise streams of images lie below: s and x_T of image k are independent


class LatentPrior(DiffusionModule):
    """A diffusion model of the activations of real images, p(s): no image and no encoder is needed to train or use it.

    Training minimises E [w(SNR_t) ‖z - D(z_t, t)‖²] over z = (s - mean) / std, with z_t = √ᾱ_t z + √(1-ᾱ_t) ε (Ho et
    al. 2020; Salimans & Ho 2022). Mean, standard deviation and range are those of the training activations and are
    stored in the checkpoint. Samples are clamped to the range.

    Args:
        network: its `size` must be the number of activations m.
        schedule: the noise levels t = 0..T-1.
        prediction: what the network predicts, and how its errors are weighed. A `timestep_power` below 1 favours little
            noise, where the fine structure of s is decided.
        lr: learning rate of AdamW after warm-up.
        weight_decay: weight decay of AdamW.
        warmup_steps: optimiser steps of linear warm-up.
        final_lr: share of `lr` that is left at the end of a cosine decay; 1 keeps it constant.
        seed: seed of the noise and timesteps, which depend on it and the step alone.

    Raises:
        InvalidOptionError: an option outside its range.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        network: VectorNet,
        schedule: NoiseSchedule,
        prediction: Prediction = Velocity(skip_width=None, weight_cap=None),
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        warmup_steps: int = 100,
        final_lr: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.schedule, self.prediction, self.seed = network, schedule, prediction, seed
        self.lr, self.weight_decay, self.warmup_steps, self.final_lr = lr, weight_decay, warmup_steps, final_lr
        self.check_recipe()
        self.save_hyperparameters(configuration(self), logger=False)
        self.register_buffer("mean", torch.zeros(network.size))
        self.register_buffer("std", torch.ones(network.size))
        self.register_buffer("low", torch.zeros(network.size))
        self.register_buffer("high", torch.ones(network.size))

    def check_fits(self, prototypes: int) -> None:
        """Raise CheckpointError unless the prior draws one activation for each of the prototypes."""
        if self.network.size != prototypes:
            raise CheckpointError(
                f"the prior draws {self.network.size} activations, the model has {prototypes} prototypes; "
                "encode, and train the prior, with the same checkpoint"
            )

    @property
    def default_steps(self) -> int:
        """Number of steps that `sample` takes by default: 250, or T if that is less; a step costs next to nothing."""
        return min(250, self.schedule.timesteps)

    @torch.no_grad()
    def sample(self, n: int, seed: int, steps: int | None = None, sampler: Sampler = "ddim") -> Float[Tensor, "n m"]:
        """Draw activations, each within the range that it has over the training set.

        Args:
            n: number of samples; sample k is the same for every n.
            seed: seed of the noise.
            steps: number of the T timesteps that are visited; None: `default_steps`.
            sampler: `ddpm`, `ddim` (η = 0) or `dpm++`.

        Raises:
            InvalidOptionError: steps that the schedule does not have, or no such sampler.
        """
        noise = NoiseSource(seed, range(FIRST_STREAM, FIRST_STREAM + n), self.device)
        z_T = noise((n, self.network.size))
        denoiser = self.prediction.denoiser(self.network, self.schedule)
        steps = self.default_steps if steps is None else steps
        z = samplers.last(samplers.sample_steps(sampler, denoiser, z_T, self.schedule, steps, noise=noise))
        return (z * self.std + self.mean).clamp(self.low, self.high)

    # --------------------------------------------------------------------------------------------------- training

    def setup(self, stage: str) -> None:
        """Take mean, standard deviation and range from the training activations; a checkpoint that resumes has its own.

        Raises:
            InvalidOptionError: the data are no `patronus_pl.data.Activations`.
            CheckpointError: the data have another number of activations.
        """
        tables = getattr(getattr(self.trainer, "datamodule", None), "tables", None)
        if tables is None:
            raise InvalidOptionError(
                "a prior is trained on activations; give it a data module patronus_pl.data.Activations"
            )
        s = torch.from_numpy(tables["train"].activations)
        if s.shape[1] != self.network.size:
            raise CheckpointError(
                f"the prior takes {self.network.size} activations, the data have {s.shape[1]}; "
                "make model.network.size and the file agree"
            )
        if stage == "fit":
            self.mean.copy_(s.mean(0))
            # A prototype that never varies stays what it is, whatever is sampled for it.
            self.std.copy_(s.std(0, correction=0).clamp_min(1e-6))
            self.low.copy_(s.amin(0))
            self.high.copy_(s.amax(0))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the denoising loss of a batch."""
        loss = self._losses(batch, batch_idx).mean()
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return the ids of a batch and the denoising loss of each row."""
        return {"id": batch["id"], "loss": self._losses(batch, batch_idx)}

    def evaluate(self, batch: dict[str, Any], batch_idx: int, stage: str) -> None:
        """Log the denoising loss of held-out activations."""
        self.log_mean(f"{stage}/loss", self._losses(batch, batch_idx), prog_bar=True)

    def _losses(self, batch: dict[str, Any], batch_idx: int) -> Float[Tensor, " b"]:
        z: Activations = (batch["activations"] - self.mean) / self.std
        return self.denoising_loss(z, self.prediction.denoiser(self.network, self.schedule), self.draw_index(batch_idx))
