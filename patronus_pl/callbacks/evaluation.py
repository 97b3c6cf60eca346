"""`Evaluation`: the callback that writes every number of `patronus test`, and how it was measured, to a file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from patronus_pl.analysis.evaluate.cost_card import COST_BATCH, cost
from patronus_pl.analysis.evaluate.evaluate import evaluate
from patronus_pl.analysis.evaluate.networks import Networks, choose_features, choose_lpips
from patronus_pl.analysis.evaluate.plan import PRESETS, EvaluationPlan, SamplingChanges
from patronus_pl.analysis.evaluate.prior_gap import prior_protocol, prior_quality
from patronus_pl.analysis.protocol import DIGITS, array_hash, attempt, made_with, plain
from patronus_pl.analysis.subject import Subject
from patronus_pl.data.activations import Activations
from patronus_pl.data.base import ImageDataModule
from patronus_pl.errors import InvalidOptionError
from patronus_pl.files import replacing
from patronus_pl.metrics import network_hash
from patronus_pl.modules import LatentPrior, PatronusModule
from patronus_pl.ranks import Ranks
from patronus_pl.runs import find_checkpoint, run_folder, writable_folder

SCHEMA_VERSION = 2


class Evaluation(pl.Callback):
    """Measure a model, or a prior over activations, after the losses of `patronus test`, and write evaluation.json.

    The same checkpoint, data and options give the same file, byte for byte; `patronus compare` shows several files
    side by side. Several devices share the images. Their file equals that of one device whose batches of data are as
    large as theirs together, except for `denoising.loss_other`, where the other image comes from the same device.

    Args:
        preset: `quick` takes minutes on a CPU; `paper` is the protocol of the published numbers (10,000 images in 1000
            steps of DDIM against the test set, Inception's features); `none` measures the losses alone.
        n: number of images to generate, and of test images to compare them with.
        latents: number of training images whose activations are probed.
        inverted: number of test images that are decoded from inverted noise.
        sampling: how images are inverted and drawn; what is not given stays as the preset has it. Its seed is also
            that of folds and resampling.
        prior: checkpoint of a prior that was trained on activations of this model.
        features: feature network of the distances. The default is Inception (preset `paper`, if its weights can be
            had), else random features, which need no download.
        lpips: file of AlexNet's weights for LPIPS.
        cost: also measure what the model costs, beside an unconditional one, and write cost.json.
        cache: folder for features of real images; by default `features` in the folder of the run.
        out: folder to write to; by default that of the run whose checkpoint is tested.

    Raises, when testing starts:
        InvalidOptionError: a number is not positive.
        CheckpointError: `prior` is no checkpoint of a prior.
    """

    def __init__(
        self,
        preset: Literal["quick", "paper", "none"] = "quick",
        n: int | None = None,
        latents: int | None = None,
        inverted: int | None = None,
        sampling: SamplingChanges = SamplingChanges(),  # noqa: B008  (frozen; jsonargparse shows its fields)
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
        """The preset, changed by every option that was given."""
        preset = PRESETS.get(self.preset, PRESETS["quick"])
        given = {"images": self.n, "reference": self.n, "latents": self.latents, "inverted": self.inverted}
        plan = replace(
            preset,
            sampling=self.sampling.applied_to(preset.sampling),
            **{name: value for name, value in given.items() if value is not None},
        )
        return replace(plan, inverted=min(plan.inverted, plan.images))

    # ----------------------------------------------------------------------------------------------------- when

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse impossible options. The constructor does not: jsonargparse would bury the message under its own."""
        if self.preset == "none":
            return
        numbers = {name: getattr(self, name) for name in ("n", "latents", "inverted")}
        numbers |= {f"sampling.{name}": getattr(self.sampling, name) for name in ("steps", "batch_size")}
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
        self._checkpoint = {"step": checkpoint.get("global_step"), "ema": "current_model_state" in checkpoint}

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, and write the files."""
        if self.preset == "none" or getattr(trainer, "fast_dev_run", False):
            return
        data: Any = getattr(trainer, "datamodule", None)
        folder = writable_folder(self._folder(trainer), "--evaluation.out")
        ranks = Ranks.met()
        if isinstance(pl_module, PatronusModule) and isinstance(data, ImageDataModule):
            sections = self._of_model(pl_module, data, folder, ranks)
        elif isinstance(pl_module, LatentPrior) and isinstance(data, Activations):
            with ranks.first_alone():
                sections = _of_prior(pl_module, data, self.plan.sampling.seed) if ranks.rank == 0 else {}
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
        _write_json(folder / "evaluation.json", evaluation)
        if self.cost and isinstance(pl_module, PatronusModule):
            card = cost(pl_module, replace(self.plan.sampling, batch_size=COST_BATCH))
            _write_json(folder / "cost.json", card.summary())
            rank_zero_info(card.table())

    def _folder(self, trainer: pl.Trainer) -> Path:
        if self.out is not None:
            return Path(self.out)
        return run_folder(Path(trainer.ckpt_path)) if trainer.ckpt_path else Path(trainer.log_dir or ".")

    # ----------------------------------------------------------------------------------------------------- what

    def _model(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        return {
            "class": type(module).__name__,
            "checkpoint": Path(trainer.ckpt_path).name if trainer.ckpt_path else None,
            "weights": network_hash(module),
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            **self._checkpoint,
        }

    def _of_model(self, model: PatronusModule, data: ImageDataModule, folder: Path, ranks: Ranks) -> dict[str, Any]:
        """Return all sections of a model."""
        plan, paper = self.plan, self.preset == "paper"
        prior = None if self._prior is None else self._prior.to(model.device)
        with ranks.first_alone():
            features, no_fid = choose_features(self.features, paper, model.image_shape[0])
            cache = self.cache or str(folder / "features")
            networks = Networks(features.to(model.device).eval(), no_fid, choose_lpips(self.lpips, paper), cache)
            train, test = Subject.of(data, "train", plan.latents), Subject.of(data, "test")
        return evaluate(model, train, test, plan, networks, prior, ranks)


def _of_prior(prior: LatentPrior, data: Activations, seed: int) -> dict[str, Any]:
    """Return the section of a prior, measured on held-out rows of its own file."""
    held_out = "test" if len(data.tables["test"]) else "val"
    train, test = (data.tables[split].activations for split in ("train", held_out))
    rows = {name: {"n": len(s), "activations": array_hash(s)} for name, s in (("train", train), ("test", test))}
    quality = attempt(lambda: prior_quality(prior, torch.from_numpy(train), torch.from_numpy(test), seed))
    return {"prior": {"protocol": {**rows, **prior_protocol(prior, seed)}, **quality}}


def _losses(trainer: pl.Trainer, module: PatronusModule | LatentPrior) -> dict[str, Any]:
    """Return what the test loop logged."""
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


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(plain(value, DIGITS), indent=1, allow_nan=False) + "\n"
    with replacing(path, "choose another --evaluation.out") as file:
        file.write(text.encode())
    rank_zero_info(f"-> {path}")
