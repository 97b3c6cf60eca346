"""`PatronusModule`: encoder, prototypes, denoiser and noise schedule, trained together."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.denoiser import UNet
from patronus_pl.diffusion import NoiseSchedule, samplers
from patronus_pl.diffusion.sampling import Sampler
from patronus_pl.errors import CheckpointError
from patronus_pl.modules import penalties
from patronus_pl.modules.base import DiffusionModule, Network, Prediction, StepDraw
from patronus_pl.modules.checkpoint import configuration
from patronus_pl.modules.options import check_options
from patronus_pl.modules.revival import revive
from patronus_pl.modules.taking_back import TakenBack
from patronus_pl.prototypes import Balance, PatchEncoder, PrototypeLayer, columns_of
from patronus_pl.types import Activations, Box, Features, Image, SimilarityMap, Timesteps, at_least_float32

QUARTILES = 4


class PatronusModule(DiffusionModule):
    """A diffusion model that is conditioned on prototype activations and nothing else.

    Training minimises, over encoder, prototypes and denoiser together,
        E ‖target - net(x_t, t, s(x_0))‖²
            + λ_c · decorrelation(s) + λ_k · kurtosis(s) + λ_e · sparsity(Δx̂_0) + λ_f · faithfulness(Δs, Δŝ)
            + λ_l · looking(sim, Δx̂_0) + λ_d · distinctness(p),
    with target = v = √ᾱ ε - √(1-ᾱ) x_0 or ε, and x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε (Weng et al. 2026; Salimans & Ho 2022).
    Images are float in [-1, 1], activations s are (b, m) as the prototype layer reports them; the denoiser sees them
    standardised, (s - mean) / std, with the statistics stored in the checkpoint.

    Args:
        image_shape: (channels, height, width) of the images it is trained on.
        encoder: image → feature vector a patch.
        prototypes: features → activations; `dim` must equal the encoder's last channel.
        denoiser: its `condition_dim` must equal the number of prototypes.
        schedule: the noise levels t = 0..T-1.
        prediction: what the denoiser predicts. `v` makes the condition pay from the first step; `epsilon` is the
            paper's and weighs errors of x_0 next to nothing at the noise levels where s is all the model has.
        skip_width: w of `NoiseSchedule.skip` in units of x_0, for `prediction: v`: the network paints x_0 and v follows
            from it. As wide as the error it is left with, a few hundredths for cartoons: a wider one leaves noise in
            the picture, a narrower one loses the way back to x_T. None: the network gives v (or ε), as the paper's.
        weight_cap: for `prediction: v`, whose loss weighs an error of x_0 by SNR + 1: the largest weight, so that steps
            with little noise, which need no s, do not outweigh the others (after Hang et al. 2023); None caps nothing.
        standardise: feed the denoiser standardised activations; False feeds them raw, as the paper does.
        init: `patches` starts the prototypes from features of real patches; `random` leaves them where they are.
        decorrelation: λ_c, weight of the penalty that makes prototypes movable one at a time.
        decorrelation_floor: in [-1, 0], the least correlation that is not penalised. -½ lets three prototypes stand for
            the three values of one thing, which exclude each other; 0 asks for no correlation at all.
        balance: names of binary attributes that the data tie together, and that the decorrelation treats as if they
            were independent: images are weighted by `balancing_weights`. It then pulls the concepts apart; without, it
            asks for mixtures of them.
        sparsity: λ_e, weight of the penalty on how much of the picture a prototype changes: in half of the images of a
            step, the noisier half, one is set to its value in another image that has less of it, and the predicted
            image should change in few places. Costs half a pass through the denoiser more.
        faithfulness: λ_f, weight of the penalty on an edit that is not followed: in the same images, what the encoder
            reads in the predicted one should change in that prototype alone, and in full.
        looking: λ_l, weight of the penalty on a prototype that looks past what it moves: of all patches that tell the
            same, it should learn the one that has in its middle what those edits change.
        edit_warmup: optimiser steps over which λ_e, λ_f and λ_l grow from 0.
        kurtosis: λ_k, weight of the penalty that gives each prototype a concept of its own, there or not.
        kurtosis_warmup: optimiser steps over which λ_k grows from 0: first learn what there is, then take it apart.
        revival: every how many optimiser steps of the first half of the training an idle prototype starts again, from a
            patch that is painted badly without it; 0 for never.
        distinctness: λ_d, weight of the paper's optional penalty on near-duplicate prototypes.
        distinctness_margin: δ of that penalty.
        timestep_power: t = ⌊T u^(1/power)⌋ with u uniform; 1 is uniform, above 1 favours noisy steps, where s pays.
        lr: learning rate of AdamW after warm-up.
        weight_decay: of AdamW.
        warmup_steps: optimiser steps of linear warm-up.
        final_lr: share of `lr` that is left at the end of a cosine decay; 1 keeps it constant.
        seed: of the noise and timesteps, which depend on it and the step alone: a resumed run, or one on another number
            of devices, draws the same.

    Raises:
        InvalidOptionError: parts that do not fit each other, or an option outside its range.
    """

    activation_mean: Tensor
    activation_std: Tensor
    activation_low: Tensor
    activation_high: Tensor
    _before: Activations

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        encoder: PatchEncoder,
        prototypes: PrototypeLayer,
        denoiser: UNet,
        schedule: NoiseSchedule,
        prediction: Prediction = "v",
        skip_width: float | None = 0.2,
        weight_cap: float | None = 5.0,
        standardise: bool = True,
        init: Literal["patches", "random"] = "patches",
        decorrelation: float = 0.02,
        decorrelation_floor: float = -0.2,
        balance: list[str] | None = None,
        sparsity: float = 0.15,
        faithfulness: float = 0.008,
        looking: float = 0.0,
        edit_warmup: int = 400,
        kurtosis: float = 0.01,
        kurtosis_warmup: int = 2500,
        revival: int = 200,
        distinctness: float = 0.0,
        distinctness_margin: float = 0.2,
        timestep_power: float = 1.0,
        lr: float = 6e-4,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        final_lr: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.encoder, self.prototypes, self.denoiser, self.schedule = encoder, prototypes, denoiser, schedule
        self.prediction, self.standardise, self.init = prediction, standardise, init
        self.decorrelation, self.decorrelation_floor, self.balance = decorrelation, decorrelation_floor, balance
        self.sparsity, self.faithfulness, self.looking = sparsity, faithfulness, looking
        self.edit_warmup = edit_warmup
        self.kurtosis, self.kurtosis_warmup = kurtosis, kurtosis_warmup
        self.revival, self.distinctness, self.distinctness_margin = revival, distinctness, distinctness_margin
        self.timestep_power, self.seed = timestep_power, seed
        self.skip_width, self.weight_cap = skip_width, weight_cap
        self.lr, self.weight_decay, self.warmup_steps, self.final_lr = lr, weight_decay, warmup_steps, final_lr
        check_options(self)
        self.to(memory_format=torch.channels_last)  # how convolutions are fastest; checkpoints do not care
        self.save_hyperparameters(configuration(self), logger=False)
        m = prototypes.count
        self.register_buffer("activation_mean", torch.zeros(m))
        self.register_buffer("activation_std", torch.ones(m))
        # Each prototype's own range over the training set: 2nd and 98th percentile.
        self.register_buffer("activation_low", torch.zeros(m))
        self.register_buffer("activation_high", torch.ones(m))

    # ---------------------------------------------------------------------------------------------- using a model

    @property
    def receptive_field(self) -> int:
        """Width of a patch in pixels."""
        return self.encoder.receptive_field.size

    def features(self, x: Image) -> Features:
        """Of every patch; without autocast, as bfloat16 would move the best patch where two are nearly as good."""
        self._require_channels(x)
        with torch.autocast(x.device.type, enabled=False):
            features: Tensor = self.encoder(x.to(self.dtype))
            return features

    def _require_channels(self, x: Tensor) -> None:
        if x.shape[1] != self.image_shape[0]:
            raise CheckpointError(
                f"the checkpoint was trained on images of {self.image_shape[0]} channel(s), but these have "
                f"{x.shape[1]}; use data with as many channels"
            )
        self.encoder.map_size(*x.shape[-2:])

    def encode(self, x: Image) -> Activations:
        """S of images, (b, m)."""
        s: Tensor = self.prototypes(self.features(x))
        return s

    def similarity_map(self, x: Image) -> SimilarityMap:
        """Similarity of every patch to every prototype, (b, m, rows, cols); with hard pooling s is its maximum."""
        return self.prototypes.similarity_map(self.features(x))

    def patch_box(self, row: int, col: int) -> Box:
        """Pixels that patch (row, col) sees: (top, left, bottom, right), clipped, bottom and right exclusive."""
        return self.encoder.receptive_field.box(row, col, self.image_shape[1], self.image_shape[2])

    def standardised(self, s: Activations) -> Activations:
        """What the denoiser is given for s."""
        return (s - self.activation_mean) / self.activation_std

    def denoiser_for(self, s: Activations) -> Callable[[Image, Timesteps], Image]:
        """`denoise(x_t, t) -> noise` under fixed activations, whose embedding is computed once for all steps."""
        return self.noise_predictor(self.network(self.standardised(s)))

    def network(self, condition: Activations) -> Network:
        """`(x_t, t) -> v` (or ε) under a standardised condition."""
        embedded = self.denoiser.embed_condition(condition)

        def network(x_t: Image, t: Timesteps) -> Image:
            output: Tensor = at_least_float32(self.denoiser(x_t.to(self.dtype), t, embedded))
            if self.prediction == "epsilon" or self.skip_width is None:
                return output
            return self.schedule.velocity_from_x_0(self.schedule.skip(output, x_t, t, self.skip_width), x_t, t)

        return network

    def denoise(self, x_t: Image, t: Timesteps, s: Activations) -> Image:
        """Predicted noise in x_t; t is int64 in 0..T-1."""
        return self.denoiser_for(s)(x_t, t)

    @torch.no_grad()  # unlike inference mode, its results may be used in computations with gradients
    def invert(self, x: Image, s: Activations, steps: int = 50, **options: Any) -> Image:
        """x_T from which DDIM under s leads back to x; `steps=T` is the paper's loop.

        Options are those of `diffusion.samplers.ddim_invert`.
        """
        return samplers.last(samplers.ddim_invert(self.denoiser_for(s), x, self.schedule, steps, **options))

    @torch.no_grad()
    def decode(
        self,
        x_T: Image,
        s: Activations,
        steps: int = 50,
        sampler: Sampler = "ddim",
        eta: float = 0.0,
        clip: bool = True,
        noise: samplers.NoiseSource | None = None,
    ) -> Image:
        """Image that x_T becomes under s, in [-1, 1] where `clip` holds predictions there.

        Args:
            x_T: Gaussian noise, or what `invert` returned.
            s: activations.
            steps: of T; see `NoiseSchedule.respaced`.
            sampler: `ddpm` (random), `ddim` (η = 0: deterministic), `dpm++` (DPM-Solver++(2M): best in few steps).
            eta: η of DDIM.
            clip: hold every predicted x_0 in [-1, 1].
            noise: source of the noise of `ddpm` and η > 0, one generator an image.
        """
        return samplers.last(self.sample_steps(x_T, s, steps, sampler, eta, clip, noise))

    def sample_steps(
        self,
        x_T: Image,
        s: Activations,
        steps: int = 50,
        sampler: Sampler = "ddim",
        eta: float = 0.0,
        clip: bool = True,
        noise: samplers.NoiseSource | None = None,
    ) -> Iterator[samplers.Step]:
        """Like `decode`, but yields every step as it is taken."""
        return self.sampler_steps(sampler, self.denoiser_for(s), x_T, steps, eta, clip, noise)

    # --------------------------------------------------------------------------------------------------- training

    def setup(self, stage: str) -> None:
        """Refuse data whose images the model cannot take, or that lack the attributes to balance."""
        data = getattr(self.trainer, "datamodule", None)
        shape = getattr(data, "image_shape", None)
        if shape is not None and tuple(shape) != self.image_shape:
            raise CheckpointError(
                f"the model takes images of shape {self.image_shape}, the data have {tuple(shape)}; "
                "make model.image_shape and data.image_size (and channels) agree"
            )
        if stage == "fit" and self.balance is not None:
            known = getattr(data, "attribute_names", ())
            columns = columns_of(self.balance, known)
            self.balancing = Balance.of(columns, torch.from_numpy(cast(Any, data).table("train").attributes))

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Before the very first step: prototypes from real patches, statistics from real activations."""
        if self.trainer.global_step == 0 and batch_idx == 0:
            with torch.no_grad():
                features = self.all_ranks(self.encoder(batch["image"]))
                if self.init == "patches":
                    self.prototypes.initialise_from(features, torch.Generator().manual_seed(self.seed))
                    # Devices may round differently, and near-ties may fall either way: all take rank 0's.
                    self.prototypes.vectors.copy_(self.trainer.strategy.broadcast(self.prototypes.vectors.data))
                self._update_statistics(self.prototypes(features), momentum=1.0)
        elif self.revival and self.trainer.global_step % self.revival == 0:
            found = revive(self, batch["image"], batch_idx)
            if found is not None:
                self.log("train/revived", float(found))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step of the joint objective."""
        x_0 = batch["image"]
        draw = self.draw(x_0, self.draw_index(batch_idx))
        t, noise = self._drawn(draw, x_0, descending=True)
        similarity = self.prototypes.similarity_map(self.encoder(x_0))
        everyone = self.all_ranks(self.prototypes.pool(similarity))
        conditions = self._training_conditions(everyone)
        condition = conditions[draw.rows]
        taken = TakenBack.of(condition, conditions.roll(1, 0)[draw.rows], draw)
        b, k = len(x_0), len(taken.prototype) if self.sparsity or self.faithfulness or self.looking else 0
        # One pass for both: first the whole batch, then its first, noisier images with a prototype taken back.
        rows = torch.cat([torch.arange(b, device=t.device), torch.arange(k, device=t.device)])
        x_t = self.schedule.add_noise(x_0, noise, t)
        output = self.network(torch.cat([condition, taken.condition[:k]]))(x_t[rows], t[rows])
        per_image = self._capped(self.prediction_loss(output[:b], x_0, noise, t), t)
        loss = denoising = per_image.mean()
        found = list(penalties.of_activations(self, everyone, batch))
        if k:
            before, after = (self.clean(part, x_t[:k], t[:k]) for part in (output[:k], output[b:]))
            found += penalties.of_edits(self, taken, similarity[:k], before, after)
        for name, weight, penalty in found:
            loss = loss + weight * penalty
            self.log(f"train/{name}", penalty.detach())
        self.log("train/loss", denoising.detach(), prog_bar=True)
        self._add_to_quartiles(per_image.detach(), t)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The denoising loss with an image's own s, and with another image's: their ratio says how much s is used."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same on the test split."""
        self._evaluate(batch, batch_idx, "test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Activations and ids of a batch; what to do with them is a callback's business."""
        return {"id": batch["id"], "activations": self.encode(batch["image"])}

    def _evaluate(self, batch: dict[str, Any], batch_idx: int, stage: str) -> None:
        x_0 = batch["image"]
        t, noise = self._draw(x_0, self.draw_index(batch_idx))
        s = self.encode(x_0)
        own = self._denoising_loss(x_0, t, noise, self.standardised(s))
        self.log_mean(f"{stage}/loss", own, prog_bar=True)
        # Another image of the batch. A batch of one has none, and takes that of the batch before, if there is one.
        before = s[:0] if batch_idx == 0 else self._before
        others, self._before = (s.roll(1, 0) if len(s) > 1 else before), s[-1:]
        other = self._denoising_loss(x_0, t, noise, self.standardised(others)) if len(others) else own[:0]
        self.log_mean(f"{stage}/loss_other", other)

    def on_train_start(self) -> None:
        """Begin to add up the losses by noise level."""
        # Neither a buffer, which EMA would average, nor a metric that looks for NaN: that waits for the GPU each time.
        self._quartiles = torch.zeros(2, QUARTILES, device=self.device)

    def on_train_epoch_end(self) -> None:
        """Log the loss by noise level: 1 is the least noisy quarter of the steps."""
        losses, images = self.trainer.strategy.reduce(self._quartiles, reduce_op="sum")
        for i, mean in enumerate(losses / images, start=1):  # the same on all ranks: to average it changes nothing
            self.log(f"train/loss_quartile_{i}", mean, sync_dist=True)
        self._quartiles.zero_()

    def _draw(self, x_0: Image, step: int) -> tuple[Timesteps, Image]:
        return self._drawn(self.draw(x_0, step), x_0)

    def _drawn(self, draw: StepDraw, x_0: Image, descending: bool = False) -> tuple[Timesteps, Image]:
        noise = draw.normal(x_0.shape[1:]).to(x_0.dtype)
        return draw.timesteps(self.schedule.timesteps, self.timestep_power, descending), noise

    def _denoising_loss(self, x_0: Image, t: Timesteps, noise: Image, condition: Activations) -> Float[Tensor, " b"]:
        return self._capped(self.denoising_loss(self.network(condition), x_0, noise, t), t)

    def _capped(self, loss: Float[Tensor, " b"], t: Timesteps) -> Float[Tensor, " b"]:
        if self.prediction == "epsilon" or self.weight_cap is None:
            return loss
        return loss * (self.weight_cap / (self.schedule.snr(t) + 1)).clamp_max(1)

    def clean(self, output: Image, x_t: Image, t: Timesteps) -> Image:
        """x̂_0 as the network means it."""
        if self.prediction == "epsilon":
            return self.schedule.x_0_from_noise(x_t, output, t)
        return self.schedule.x_0_from_velocity(output, x_t, t)

    def _training_conditions(self, everyone: Float[Tensor, "all m"]) -> Float[Tensor, "all m"]:
        if not self.standardise:
            return everyone
        # The batch's own statistics, with their gradient: no scale or offset of s can lower the loss.
        mean, std = everyone.mean(0), everyone.std(0, correction=0).clamp_min(1e-4)
        self._update_statistics(everyone.detach(), momentum=0.02)
        return (everyone - mean) / std

    def _update_statistics(self, s: Activations, momentum: float) -> None:
        if self.standardise and len(s) > 1:
            self.activation_mean.lerp_(s.mean(0), momentum)
            self.activation_std.lerp_(s.std(0, correction=0).clamp_min(1e-4), momentum)

    def all_ranks(self, rows: Float[Tensor, "b *rest"]) -> Float[Tensor, "all *rest"]:
        """The rows of every rank's batch, in the order of a single device, with gradients."""
        if self.trainer.world_size == 1:
            return rows
        return cast(Tensor, self.all_gather(rows, sync_grads=True)).transpose(0, 1).flatten(0, 1)

    def _add_to_quartiles(self, per_image: Float[Tensor, " b"], t: Timesteps) -> None:
        quartile = t * QUARTILES // self.schedule.timesteps
        sums = torch.stack([per_image, torch.ones_like(per_image)]).to(self._quartiles)
        self._quartiles.index_add_(1, quartile, sums)
