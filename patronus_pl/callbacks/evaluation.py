"""`Evaluation`: `patronus test` writes every number, with how it was measured, to `evaluation.json` in the run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from patronus_pl.analysis.evaluate.cost_card import cost
from patronus_pl.analysis.evaluate.evaluate import evaluate
from patronus_pl.analysis.evaluate.image_quality import Networks
from patronus_pl.analysis.evaluate.plan import PRESETS, EvaluationPlan
from patronus_pl.analysis.evaluate.prior_gap import prior_protocol, prior_quality
from patronus_pl.analysis.protocol import DIGITS, array_hash, attempt, made_with, plain
from patronus_pl.analysis.subject import Subject
from patronus_pl.data.activations import Activations
from patronus_pl.data.base import ImageDataModule
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.files import replacing
from patronus_pl.metrics import InceptionFeatures, RandomFeatures, WeightsNotFoundError, load_lpips, network_hash
from patronus_pl.modules import LatentPrior, PatronusModule
from patronus_pl.ranks import Ranks
from patronus_pl.runs import find_checkpoint, run_folder, writable_folder

SCHEMA_VERSION = 2
QUICK_FID = "the quick preset loads no Inception; add --evaluation.features patronus_pl.metrics.InceptionFeatures"
QUICK_LPIPS = "the quick preset loads no LPIPS; add --evaluation.lpips FILE (AlexNet's), or --evaluation.preset paper"


class Evaluation(pl.Callback):
    """After the losses of `patronus test`: all other numbers of a model, or of a prior over activations.

    The same checkpoint, data and options give the same file, byte for byte; `patronus compare` shows several of them.
    Several devices share the images, and their file is that of one device whose batch of data is as large as theirs are
    together, but for `denoising.loss_other`: there the other image is one of the same device.

    Args:
        preset: `quick` takes minutes on a CPU; `paper` is the protocol of the published numbers (10,000 images in 1000
            steps of DDIM against the test set, Inception's features); `none` measures the losses alone.
        n: images to generate, and test images to compare them with.
        latents: training images whose activations are probed.
        inverted: test images that are decoded from inverted noise.
        sampling: how images are inverted and drawn; by default as the preset says, whose sampling it
            replaces as a whole. Its seed is also that of folds and resampling.
        prior: checkpoint of a prior that was trained on activations of this model.
        features: network of the distances; by default Inception (`paper`, if its weights can be had), else random
            features, which need no download.
        lpips: file of AlexNet's weights for LPIPS.
        cost: also measure what the model costs, beside an unconditional one, into `cost.json`.
        cache: folder for features of real images; by default `features` in the folder of the run.
        out: folder to write to; by default that of the run whose checkpoint is tested.

    Raises, when testing starts:
        InvalidOptionError: a number that is not positive.
        CheckpointError: the prior is none.
    """

    def __init__(
        self,
        preset: Literal["quick", "paper", "none"] = "quick",
        n: int | None = None,
        latents: int | None = None,
        inverted: int | None = None,
        sampling: Sampling | None = None,
        prior: str | None = None,
        features: nn.Module | None = None,
        lpips: str | None = None,
        cost: bool = False,
        cache: str | None = None,
        out: str | None = None,
    ) -> None:
        self.preset, self.n, self.latents, self.inverted = preset, n, latents, inverted
        self.sampling, self.prior, self.features, self.lpips = sampling, prior, features, lpips
        self.cost, self.cache, self.out = cost, cache, out
        self._checkpoint: dict[str, Any] = {}
        self._prior: LatentPrior | None = None

    @property
    def plan(self) -> EvaluationPlan:
        """The preset, with every option that was given in the place of its own."""
        said: dict[str, Any] = {
            "images": self.n,
            "reference": self.n,
            "latents": self.latents,
            "inverted": self.inverted,
            "sampling": self.sampling,
        }
        preset = PRESETS.get(self.preset, PRESETS["quick"])
        plan = replace(preset, **{name: value for name, value in said.items() if value is not None})
        return replace(plan, inverted=min(plan.inverted, plan.images))

    # ----------------------------------------------------------------------------------------------------- when

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse impossible options. The constructor does not: jsonargparse would bury the message under its own."""
        if self.preset == "none":
            return
        numbers = {name: getattr(self, name) for name in ("n", "latents", "inverted")}
        numbers |= {f"sampling.{name}": getattr(self.plan.sampling, name) for name in ("steps", "batch_size")}
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise InvalidOptionError(f"evaluation.{name} is {number}; it must be at least 1")
        if self.prior is not None:
            # Read before the losses are measured: a wrong name should not cost the minutes that these take.
            self._prior = LatentPrior.load_from_checkpoint(find_checkpoint(self.prior))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember where the weights come from."""
        self._checkpoint = {
            "step": checkpoint.get("global_step"),
            "ema": "current_model_state" in checkpoint,
        }

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, and write."""
        if self.preset == "none" or getattr(trainer, "fast_dev_run", False):
            return
        data: Any = getattr(trainer, "datamodule", None)
        folder = writable_folder(self._folder(trainer), "--evaluation.out")
        ranks = Ranks.met()
        if isinstance(pl_module, PatronusModule) and isinstance(data, ImageDataModule):
            sections = self._of_model(pl_module, data, folder, ranks)
        elif isinstance(pl_module, LatentPrior) and isinstance(data, Activations):
            sections = self._of_prior(pl_module, data, ranks)
        else:
            return
        if ranks.rank > 0:
            return
        evaluation = {
            "schema_version": SCHEMA_VERSION,
            "preset": self.preset,
            "model": self._model(trainer, pl_module),
            "data": data.describe(),
            "made_with": made_with(),
            "denoising": _losses(trainer, pl_module),
            **sections,
        }
        write_json(folder / "evaluation.json", evaluation)
        if self.cost and isinstance(pl_module, PatronusModule):
            self._write_cost(pl_module, folder)

    def _folder(self, trainer: pl.Trainer) -> Path:
        if self.out is not None:
            return Path(self.out)
        return run_folder(Path(trainer.ckpt_path)) if trainer.ckpt_path else Path(trainer.log_dir or ".")

    def _model(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        return {
            "class": type(module).__name__,
            "checkpoint": Path(trainer.ckpt_path).name if trainer.ckpt_path else None,
            "weights": network_hash(module),
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            **self._checkpoint,
        }

    # ----------------------------------------------------------------------------------------------------- what

    def _of_model(self, model: PatronusModule, data: ImageDataModule, folder: Path, ranks: Ranks) -> dict[str, Any]:
        plan = self.plan
        prior = None if self._prior is None else self._prior.to(model.device)
        with ranks.first_alone():
            networks = self._networks(model, str(folder / "features"))
            train, test = Subject.of(data, "train", plan.latents), Subject.of(data, "test")
        return evaluate(model, train, test, plan, networks, prior, ranks)

    def _of_prior(self, prior: LatentPrior, data: Activations, ranks: Ranks) -> dict[str, Any]:
        """Against held-out rows of its own file."""
        with ranks.first_alone():
            return self._rows_of_prior(prior, data) if ranks.rank == 0 else {}

    def _rows_of_prior(self, prior: LatentPrior, data: Activations) -> dict[str, Any]:
        seed = self.plan.sampling.seed
        held_out = "test" if len(data.tables["test"]) else "val"
        train, test = (data.tables[split].activations for split in ("train", held_out))
        rows = {name: {"n": len(s), "activations": array_hash(s)} for name, s in (("train", train), ("test", test))}
        quality = attempt(lambda: prior_quality(prior, torch.from_numpy(train), torch.from_numpy(test), seed))
        return {"prior": {"protocol": {**rows, **prior_protocol(prior, seed)}, **quality}}

    def _networks(self, model: PatronusModule, cache: str) -> Networks:
        features, no_fid = self._features(model.image_shape[0])
        return Networks(features.to(model.device).eval(), no_fid, self._lpips(), self.cache or cache)

    def _features(self, channels: int) -> tuple[nn.Module, str]:
        """The network of the distances, and why it is not Inception."""
        if self.features is not None:
            named = isinstance(self.features, InceptionFeatures)
            return self.features, "" if named else f"--evaluation.features is {type(self.features).__name__}"
        if self.preset != "paper":
            return RandomFeatures(channels), QUICK_FID
        try:
            return InceptionFeatures(), ""
        except WeightsNotFoundError as error:
            rank_zero_warn(f"no FID, distances of random features instead: {error}")
            return RandomFeatures(channels), without_weights("features.init_args.feature_extractor_weights_path")

    def _lpips(self) -> nn.Module | str:
        if self.lpips is None and self.preset != "paper":
            return QUICK_LPIPS
        try:
            return load_lpips(self.lpips)
        except WeightsNotFoundError as error:
            if self.lpips is not None:
                raise
            rank_zero_warn(f"no LPIPS: {error}")
            return without_weights("lpips")

    def _write_cost(self, model: PatronusModule, folder: Path) -> None:
        card = cost(model, self.plan.sampling.steps, self.plan.sampling.sampler)
        write_json(folder / "cost.json", card.summary())
        rank_zero_info(card.table())


def without_weights(option: str) -> str:
    """Why a number is absent, in words that are the same each time."""
    return f"its weights could not be downloaded; fetch the file that the warning names, and add --evaluation.{option}"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """All of it or nothing.

    Raises:
        OutputError: the file cannot be written.
    """
    text = json.dumps(plain(value, DIGITS), indent=1, allow_nan=False) + "\n"
    with replacing(path, "choose another --evaluation.out") as file:
        file.write(text.encode())
    rank_zero_info(f"-> {path}")


def _losses(trainer: pl.Trainer, module: PatronusModule | LatentPrior) -> dict[str, Any]:
    """What the test loop logged."""
    losses = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    return {
        "protocol": {
            "split": "test",
            "batches": [int(number) for number in trainer.num_test_batches],
            # Noise and timesteps are drawn for the batches of all devices together.
            "batch_size": trainer.datamodule.batch_size * trainer.world_size,  # type: ignore[attr-defined]
            "precision": trainer.precision,
            "seed": module.seed,
            "prediction": module.hparams.get("prediction"),
            "schedule": module.hparams.get("schedule"),
        },
        **{name.removeprefix("test/"): value for name, value in losses.items()},
    }
