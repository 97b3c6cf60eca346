"""`LatentPrior`: where activations come from when there is no image, a diffusion model of s itself."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.denoiser import VectorNet
from patronus_pl.diffusion import NoiseSchedule, NoiseSource, samplers
from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.modules.base import DiffusionModule, Sampler
from patronus_pl.modules.checkpoint import configuration
from patronus_pl.types import Activations

KNOTS = 1025
"""Quantiles that describe the distribution of an activation."""
EDGE = 2.0**-12
"""Probability at which a distribution is cut off, so that its extremes lie at ±3.5 standard deviations."""
FIRST_STREAM = 1 << 32  # the noise streams of images lie below: s and x_T of image k are independent


class LatentPrior(DiffusionModule):
    """A diffusion model of the activations of real images, p(s): no image and no encoder is needed to train or use it.

    Training minimises E ‖target - net(z_t, t)‖² over standardised activations z, with target = v = √ᾱ ε - √(1-ᾱ) z or
    ε (Ho et al. 2020; Salimans & Ho 2022). What standardises is taken from the training activations and stored in the
    checkpoint; samples stay within the range of those.

    Args:
        network: its `size` must be the number of activations m.
        schedule: the noise levels t = 0..T-1.
        prediction: what the network predicts.
        marginals: how s is standardised. `gaussian`: z_j = Φ⁻¹(F_j(s_j)) with the distribution F_j of each activation,
            so that the network learns how activations depend on each other and nothing else; a switch, whose two
            heights are sharper than the last noise, comes back as sharp as it was. `moments`: z = (s - mean) / std.
        timestep_power: t = ⌊T u^(1/power)⌋ with u uniform; below 1 favours little noise, where the fine structure of s
            is decided.
        lr: learning rate of AdamW after warm-up.
        weight_decay: of AdamW.
        warmup_steps: optimiser steps of linear warm-up.
        final_lr: share of `lr` that is left at the end of a cosine decay; 1 keeps it constant.
        seed: of the noise and timesteps, which depend on it and the step alone.

    Raises:
        InvalidOptionError: an option outside its range.
    """

    mean: Tensor
    std: Tensor
    quantiles: Tensor

    def __init__(
        self,
        network: VectorNet,
        schedule: NoiseSchedule,
        prediction: Literal["v", "epsilon"] = "v",
        marginals: Literal["gaussian", "moments"] = "gaussian",
        timestep_power: float = 1.0,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        warmup_steps: int = 100,
        final_lr: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("timestep_power", timestep_power), ("lr", lr)):
            if value <= 0:
                raise InvalidOptionError(f"model.{name} is {value}; it must be positive")
        if seed < 0:
            raise InvalidOptionError(f"model.seed is {seed}; it must not be negative")
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.marginals, self.timestep_power, self.seed = marginals, timestep_power, seed
        self.lr, self.weight_decay, self.warmup_steps, self.final_lr = lr, weight_decay, warmup_steps, final_lr
        self.save_hyperparameters(configuration(self), logger=False)
        self.register_buffer("mean", torch.zeros(network.size))
        self.register_buffer("std", torch.ones(network.size))
        # Of each activation, at equal steps of probability: the first is the lowest, the last the highest.
        self.register_buffer("quantiles", torch.linspace(0, 1, KNOTS)[:, None].repeat(1, network.size))

    def check_fits(self, prototypes: int) -> None:
        """Raise CheckpointError unless the prior draws one activation for each of the prototypes."""
        if self.network.size != prototypes:
            raise CheckpointError(
                f"the prior draws {self.network.size} activations, the model has {prototypes} prototypes; "
                "encode, and train the prior, with the same checkpoint"
            )

    @property
    def default_steps(self) -> int:
        """Of sampling, unless others are asked for: 100, or T if that is less. A step of this network costs nothing."""
        return min(100, self.schedule.timesteps)

    @torch.no_grad()
    def sample(self, n: int, seed: int, steps: int | None = None, sampler: Sampler = "ddim") -> Float[Tensor, "n m"]:
        """Draw activations, each within the range that it has over the training set.

        Args:
            n: how many; sample k is the same for every n.
            seed: of the noise.
            steps: of T; None: `default_steps`.
            sampler: `ddpm`, `ddim` (η = 0) or `dpm++`.

        Raises:
            InvalidOptionError: steps that the schedule does not have, or no such sampler.
        """
        noise = NoiseSource(seed, range(FIRST_STREAM, FIRST_STREAM + n), self.device)
        z_T = noise((n, self.network.size))
        denoise = self.noise_predictor(self.network)
        steps = self.default_steps if steps is None else steps
        z = samplers.last(self.sampler_steps(sampler, denoise, z_T, steps, noise=noise))
        return self.restored(z)

    def standardised(self, s: Activations) -> Activations:
        """Z: what the network sees of activations."""
        if self.marginals == "moments":
            return (s - self.mean) / self.std
        knots = self.quantiles.T.contiguous()
        # A value that takes up a share of the distribution, such as a constant, lies in the middle of that share.
        first = torch.searchsorted(knots, s.T.contiguous()).clamp(1, KNOTS - 1)
        last = torch.searchsorted(knots, s.T.contiguous(), right=True).clamp(1, KNOTS - 1)
        below, above = knots.gather(1, first - 1), knots.gather(1, first)
        share = ((s.T - below) / (above - below).clamp_min(1e-12)).clamp(0, 1)
        position = torch.where(last > first, (first + last - 1) / 2, first - 1 + share)
        z: Tensor = torch.special.ndtri((position / (KNOTS - 1)).clamp(EDGE, 1 - EDGE))
        return z.T

    def restored(self, z: Activations) -> Activations:
        """S of standardised activations, within the range of the training rows."""
        if self.marginals == "moments":
            return (z * self.std + self.mean).clamp(self.quantiles[0], self.quantiles[-1])
        position = torch.special.ndtr(z) * (KNOTS - 1)
        below = position.long().clamp(0, KNOTS - 2)
        low, high = self.quantiles.gather(0, below), self.quantiles.gather(0, below + 1)
        s: Tensor = low + (position - below) * (high - low)
        return s

    # --------------------------------------------------------------------------------------------------- training

    def setup(self, stage: str) -> None:
        """Learn the distribution of the training activations; a checkpoint that resumes has its own.

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
            self.quantiles.copy_(torch.from_numpy(np.quantile(s.numpy(), np.linspace(0, 1, KNOTS), axis=0)))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step of the denoising objective."""
        loss = self._losses(batch, batch_idx).mean()
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The denoising loss of held-out activations."""
        self._log_loss("val", batch, batch_idx)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same on the test split."""
        self._log_loss("test", batch, batch_idx)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Ids of a batch and the denoising loss of each row."""
        return {"id": batch["id"], "loss": self._losses(batch, batch_idx)}

    def _log_loss(self, stage: str, batch: dict[str, Any], batch_idx: int) -> None:
        self.log_mean(f"{stage}/loss", self._losses(batch, batch_idx), prog_bar=True)

    def _losses(self, batch: dict[str, Any], batch_idx: int) -> Float[Tensor, " b"]:
        z = self.standardised(batch["activations"])
        draw = self.draw(z, self.draw_index(batch_idx))
        noise = draw.normal(z.shape[1:])
        return self.denoising_loss(self.network, z, noise, draw.timesteps(self.schedule.timesteps, self.timestep_power))
