"""`PatronusModule`: encoder, prototypes, denoiser and noise schedule, trained together."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patronus_pl.denoiser import UNet
from patronus_pl.diffusion import Denoiser, NoiseSchedule, NoiseSource, Prediction, Sampler, Step, Velocity, samplers
from patronus_pl.diffusion.guidance import Guidance, guided, weights_of_rows
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules.base import DiffusionModule
from patronus_pl.modules.checkpoint import configuration
from patronus_pl.modules.loss_by_noise import LossByNoise
from patronus_pl.modules.parts import check_parts, check_shape
from patronus_pl.objective import Edit, Masks, Objective, TrainingStep, paint
from patronus_pl.prototypes import PatchEncoder, PrototypeLayer
from patronus_pl.types import Activations, Box, Features, Image, SimilarityMap, Timesteps


class PatronusModule(DiffusionModule):
    """A diffusion model that is conditioned on prototype activations and nothing else.

    Training minimises E [w(SNR_t) ‖x_0 - D(x_t, t | s(x_0))‖²] + Σ weight · penalty over encoder, prototypes and
    denoiser together, with x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε (Weng et al. 2026). D names the clean image. Images are float in
    [-1, 1]; activations `s` have shape (b, m), and the denoiser is given them standardised.

    Args:
        image_shape: (channels, height, width) of the images it is trained on.
        encoder: image → feature vector of each patch.
        prototypes: features → activations; `dim` must equal the encoder's last channel.
        denoiser: network whose `condition_dim` must equal the number of prototypes.
        schedule: the noise levels t = 0..T-1.
        prediction: what the network predicts, and how its errors are weighed.
        objective: the penalties; null trains on the denoising loss alone, as the paper does.
        masks: which prototypes the denoiser is told in training; null tells it all, as the paper does.
        lr: learning rate of AdamW after warm-up.
        warmup_steps: optimiser steps of linear warm-up.
        final_lr: share of `lr` that is left at the end of a cosine decay; 1 keeps it constant.
        seed: seed of the noise and timesteps. They depend on it and the step alone, not on devices or interruptions.

    Raises:
        InvalidOptionError: parts that do not fit each other, or an option outside its range.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        encoder: PatchEncoder,
        prototypes: PrototypeLayer,
        denoiser: UNet,
        schedule: NoiseSchedule,
        prediction: Prediction = Velocity(),
        objective: Objective | None = None,
        masks: Masks | None = None,
        lr: float = 6e-4,
        warmup_steps: int = 100,
        final_lr: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.encoder, self.prototypes, self.denoiser, self.schedule = encoder, prototypes, denoiser, schedule
        self.prediction, self.objective, self.masks = prediction, objective, masks
        self.lr, self.warmup_steps, self.final_lr, self.seed = lr, warmup_steps, final_lr, seed
        self.check_recipe()
        check_parts(self.image_shape, encoder, prototypes, denoiser, masks)
        self.to(memory_format=torch.channels_last)  # how convolutions are fastest; checkpoints do not care
        self.save_hyperparameters(configuration(self), logger=False)
        self._by_noise = LossByNoise(schedule.timesteps)
        self._previous: Activations | None = None  # activations of the last image of the batch before, in an evaluation

    @property
    def activation_low(self) -> Float[Tensor, " m"]:
        """Low end of each prototype's range over the training set."""
        return self.prototypes.low

    @property
    def activation_high(self) -> Float[Tensor, " m"]:
        """High end of each prototype's range over the training set."""
        return self.prototypes.high

    def features(self, x: Image) -> Features:
        """Return the features of every patch, without autocast: bfloat16 would move the arg-max among near-ties."""
        self.encoder.require(x)
        with torch.autocast(x.device.type, enabled=False):
            return cast(Tensor, self.encoder(x.to(self.dtype)))

    def encode(self, x: Image) -> Activations:
        """Return the prototype activations `s`, shape (b, m)."""
        return cast(Tensor, self.prototypes(self.features(x)))

    def similarity_map(self, x: Image) -> SimilarityMap:
        """Return the similarity of patches to prototypes, (b, m, rows, cols). Hard pooling takes its maximum."""
        return self.prototypes.similarity_map(self.features(x))

    def patch_box(self, row: int, col: int) -> Box:
        """Return the pixels that a patch sees: (top, left, bottom, right), clipped, bottom and right exclusive."""
        return self.encoder.receptive_field.box(row, col, self.image_shape[1], self.image_shape[2])

    def denoiser_for(
        self,
        s: Activations,
        keep: Bool[Tensor, "rows columns"] | None = None,
        base: Activations | None = None,
        guidance: Guidance | None = None,
    ) -> Denoiser:
        """Return D(x_t, t) → x̂_0 under fixed activations, whose embedding is computed once for all steps.

        Args:
            s: activations, (b, m).
            keep: which of them the denoiser is told, (b, m); None for all. All False: the model without a condition.
            base: activations that `guidance` starts from, such as those of unedited images; None: those of no image.
            guidance: w in D(base) + w · [D(s) - D(base)], one number or one a prototype; None for no guidance.

        Raises:
            InvalidOptionError: a mask for a model trained without, one of another shape, or an impossible guidance.
        """
        if keep is not None and keep.shape != s.shape:
            raise InvalidOptionError(f"keep has shape {tuple(keep.shape)}, but s has {tuple(s.shape)}; make them equal")
        given = self.denoiser_under(self.prototypes.standardised(s), keep)
        if guidance is None:
            return given
        untold = torch.zeros_like(s, dtype=torch.bool) if base is None else keep
        without = self.denoiser_under(self.prototypes.standardised(s if base is None else base), untold)
        return guided(without, given, weights_of_rows(guidance, s, base))

    def denoiser_under(self, condition: Activations, keep: Bool[Tensor, "b m"] | None = None) -> Denoiser:
        """Return D(x_t, t) → x̂_0 under a condition, which `PrototypeLayer.standardised` makes of activations."""
        embedded = self.denoiser.embed_condition(condition, keep)
        return self.prediction.denoiser(lambda x_t, t: self.denoiser(x_t.to(self.dtype), t, embedded), self.schedule)

    def denoise(self, x_t: Image, t: Timesteps, s: Activations) -> Image:
        """Return the predicted noise in x_t; t is int64 in 0..T-1."""
        return self.schedule.noise_from_x_0(x_t, self.denoiser_for(s)(x_t, t), t)

    @torch.no_grad()  # unlike inference mode, its results may be used in computations with gradients
    def invert(self, x: Image, s: Activations, steps: int = 50, refine: int = 0) -> Image:
        """Return the x_T from which DDIM under s leads back to x; see `ddim_invert` for `refine`."""
        return samplers.last(samplers.ddim_invert(self.denoiser_for(s), x, self.schedule, steps, refine))

    @torch.no_grad()
    def decode(
        self,
        x_T: Image,
        s: Activations,
        steps: int = 50,
        sampler: Sampler = "ddim",
        eta: float = 0.0,
        clip: bool = True,
        noise: NoiseSource | None = None,
        **told: Any,
    ) -> Image:
        """Return the image that x_T becomes under s, in [-1, 1] if `clip` holds predictions there.

        Args:
            x_T: Gaussian noise, or what `invert` returned.
            s: activations, (b, m).
            steps: number of the T timesteps that are visited; see `NoiseSchedule.respaced`.
            sampler: `ddpm` (random), `ddim` (η = 0: deterministic), `dpm++` (DPM-Solver++(2M): best in few steps).
            eta: η of DDIM.
            clip: hold every predicted x_0 in [-1, 1].
            noise: source of the noise of `ddpm` and η > 0, with one generator an image.
            told: `keep`, `base` and `guidance`, see `denoiser_for`.
        """
        denoiser = self.denoiser_for(s, **told)
        return samplers.last(samplers.sample_steps(sampler, denoiser, x_T, self.schedule, steps, eta, clip, noise))

    def sample_steps(
        self, x_T: Image, s: Activations, steps: int = 50, sampler: Sampler = "ddim", clip: bool = True, **options: Any
    ) -> Iterator[Step]:
        """Yield every step that `decode` takes; its other options are `eta` and `noise`."""
        return samplers.sample_steps(sampler, self.denoiser_for(s), x_T, self.schedule, steps, clip=clip, **options)

    def setup(self, stage: str) -> None:
        """Refuse data whose images the model cannot take, or that lack the attributes to balance."""
        data: Any = getattr(self.trainer, "datamodule", None)
        check_shape(self.image_shape, getattr(data, "image_shape", None))
        if stage == "fit" and self.objective is not None:
            names = getattr(data, "attribute_names", ())
            self.objective.prepare(names, lambda: torch.from_numpy(data.table("train").attributes))

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Before the very first step, take prototypes from real patches, and statistics from real activations."""
        if self.trainer.global_step == 0 and batch_idx == 0:
            with torch.no_grad():
                features = self.all_ranks(self.encoder(batch["image"]))
                self.prototypes.start(features, self.seed, self.trainer.strategy.broadcast)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Take one step of the joint objective."""
        x_0 = batch["image"]
        draw = self.draw(x_0, self.draw_index(batch_idx))
        x_t, t = self.noised(x_0, draw, descending=True)
        similarity = self.prototypes.similarity_map(self.encoder(x_0))
        s = self.all_ranks(self.prototypes.pool(similarity))
        conditions = self.prototypes.standardised_by_batch(s)
        edits = self.objective is not None and self.objective.judges_edits
        chance, number = draw.uniform(s.shape[1]), self.trainer.global_step
        keep = None if self.masks is None else self.masks.keep(draw.uniform(s.shape[1] + 2), number)
        rows, k = draw.rows, len(x_0) // 2 * edits  # the first half of the batch is the noisier one
        painted = paint(self.denoiser_under, conditions[rows], conditions.roll(1, 0)[rows], x_t, t, chance, keep, k)
        losses = self.prediction.loss(x_0, painted.clean, t, self.schedule)
        loss = losses.mean()
        self.log("train/loss", loss.detach(), prog_bar=True)
        self._by_noise.add(losses.detach(), t)
        edit, objective = painted.edit(similarity), self.objective
        return loss if objective is None else self._penalised(loss, batch, s, edit, objective)

    def _penalised(
        self, loss: Tensor, batch: dict[str, Any], s: Float[Tensor, "all m"], edit: Edit | None, objective: Objective
    ) -> Tensor:
        """Return loss + Σ weight · penalty, and log each."""
        step = TrainingStep(
            number=self.trainer.global_step,
            activations=s,
            attributes=self.all_ranks(batch["attributes"]) if objective.balances else None,
            prototypes=self.prototypes,
            receptive_field=self.encoder.receptive_field,
            read=lambda pictures: self.prototypes.standardised(self.prototypes(self.encoder(pictures))),
            edit=edit,
        )
        for name, weight, value in objective.terms(step):
            self.log(f"train/{name}", value.detach())
            loss = loss + weight * value
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the loss by noise level: quartile 1 holds the least noisy quarter of the timesteps."""
        sums = cast(Tensor, self.trainer.strategy.reduce(self._by_noise.sums.to(self.device), reduce_op="sum"))
        for i, mean in enumerate(self._by_noise.restart(sums), start=1):
            self.log(f"train/loss_quartile_{i}", mean, sync_dist=True)  # the same on all ranks already

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return activations and ids of a batch; what to do with them is a callback's business."""
        return {"id": batch["id"], "activations": self.encode(batch["image"])}

    def evaluate(self, batch: dict[str, Any], batch_idx: int, stage: str) -> None:
        """Log the denoising loss with an image's own s, and with another's: their ratio says how much s is used."""
        x_0, step = batch["image"], self.draw_index(batch_idx)
        s = self.encode(x_0)
        own = self.denoising_loss(x_0, self.denoiser_for(s), step)
        self.log_mean(f"{stage}/loss", own, prog_bar=True)
        # Another image of the batch. A batch of one has none, and takes that of the batch before, if there is one.
        previous = s[:0] if batch_idx == 0 or self._previous is None else self._previous
        others, self._previous = (s.roll(1, 0) if len(s) > 1 else previous), s[-1:]
        other = self.denoising_loss(x_0, self.denoiser_for(others), step) if len(others) else own[:0]
        self.log_mean(f"{stage}/loss_other", other)
