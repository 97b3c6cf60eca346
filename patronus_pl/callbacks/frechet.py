"""`SampleDistance`: how far samples are from real images, measured while training goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from patronus_pl.analysis.editing.decoding import decode_from_noise, encode
from patronus_pl.analysis.protocol import pixel_hash
from patronus_pl.callbacks.pictures import images_of
from patronus_pl.data.base import ImageDataModule
from patronus_pl.diffusion.sampling import Sampler, Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import (
    FeatureStatistics,
    FrechetDistance,
    InceptionFeatures,
    RandomFeatures,
    cached_arrays,
    extract_features,
    feature_statistics,
    network_hash,
)
from patronus_pl.modules import LatentPrior, PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.types import Activations


class SampleDistance(pl.Callback):
    """After every few validations, with the averaged weights: Fréchet distance of samples from the validation images.

    Image k is decoded from s of validation image k and noise of its own. Devices take images in turn and their sums are
    added, so that each image counts once; features of real images are kept in a folder for later runs. Training is the
    same with and without: no common random number is used, and whatever goes wrong ends in one warning.

    Logged: `samples/FID` with Inception's features, `samples/frechet_distance_<network>` with any others, and
    `samples/prior/…` if there is a prior.

    List it before `EMA`.

    Args:
        every: measure after every so many validations.
        images: how many are sampled and compared with as many real ones; at most those that there are.
        steps: of the sampler.
        sampler: which.
        seed: of the noise.
        batch_size: images at a time.
        features: feature network, see `patronus_pl.metrics`; by default random features, which need no download.
        prior: checkpoint of a prior; only for training that leaves the encoder as it is.
        cache: folder for features of real images; by default `features` in the folder of the run.

    Raises, when training starts:
        InvalidOptionError: a number that is not positive.
    """

    def __init__(
        self,
        every: int = 5,
        images: int = 2048,
        steps: int = 20,
        sampler: Sampler = "dpm++",
        seed: int = 0,
        batch_size: int = 64,
        features: nn.Module | None = None,
        prior: str | None = None,
        cache: str | None = None,
    ) -> None:
        self.every, self.images, self.steps, self.sampler, self.seed = every, images, steps, sampler, seed
        self.batch_size, self.features, self.prior, self.cache = batch_size, features, prior, cache
        self._training, self._validations, self._warned = False, 0, False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse impossible options. The constructor does not: jsonargparse would bury the message under its own."""
        for name in ("every", "images", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"SampleDistance.{name} is {getattr(self, name)}; it must be at least 1")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin; a trial run of one batch measures nothing."""
        self._training = not getattr(trainer, "fast_dev_run", False)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, if it is time."""
        data: Any = getattr(trainer, "datamodule", None)
        training = self._training and not trainer.sanity_checking
        if not training or not isinstance(pl_module, PatronusModule) or not isinstance(data, ImageDataModule):
            return
        self._validations += 1
        if self._validations % self.every == 0:
            folder = self.cache or str(Path(trainer.log_dir or ".", "features"))
            with isolate_rng():
                self._measure(trainer, pl_module, data, folder)

    def _measure(self, trainer: pl.Trainer, model: PatronusModule, data: ImageDataModule, folder: str) -> None:
        count = min(self.images, len(data.table("val")))
        mine = shard(count, trainer.global_rank, trainer.world_size)
        sources: dict[str, Callable[[], Activations]] = {"": lambda: self._real(model, data, mine)}
        if self.prior is not None:
            sources["prior/"] = lambda: self._imagined(model, count)[mine]
        for kind, source in sources.items():
            metric = self._attempt(lambda s=source: self._filled(trainer, model, data, folder, s(), mine))  # type: ignore[misc]
            # A device that waited for the sums of one that failed would wait forever: first all agree.
            if not trainer.strategy.reduce_boolean_decision(metric is not None, all=True) or metric is None:
                return
            distance = self._attempt(metric.compute)
            if distance is not None:
                model.log(f"samples/{kind}{log_name(metric.network)}", distance.float(), sync_dist=True)

    def _attempt(self, measure: Callable[[], Any]) -> Any:
        try:
            return measure()
        except Exception as error:
            if not self._warned:
                rank_zero_warn(f"SampleDistance: {type(error).__name__}: {error}; training goes on without it")
            self._warned = True
        return None

    # ----------------------------------------------------------------------------------------------------- one rank

    def _filled(
        self,
        trainer: pl.Trainer,
        model: PatronusModule,
        data: ImageDataModule,
        folder: str,
        s: Activations,
        mine: list[int],
    ) -> FrechetDistance:
        """The sums over this device's samples; on the first device also those over all real images."""
        network = self.features or RandomFeatures(model.image_shape[0])
        metric = FrechetDistance(network.to(model.device)).to(model.device)
        sampling = Sampling(self.steps, self.sampler, self.seed, self.batch_size)
        with trainer.precision_plugin.forward_context():
            for pictures in decode_from_noise(model, s, mine, sampling):
                metric.update(as_floats(pictures.to(model.device)), real=False)
        if trainer.is_global_zero:
            metric.set_real(self._statistics(metric.network, data, folder))
        return metric

    def _real(self, model: PatronusModule, data: ImageDataModule, mine: list[int]) -> Activations:
        return torch.cat([encode(model, images_of(data.table("val"), rows)) for rows in self._batches(mine)])

    def _imagined(self, model: PatronusModule, count: int) -> Activations:
        prior = LatentPrior.load_from_checkpoint(str(self.prior), model.device)
        prior.check_fits(model.prototypes.count)
        return prior.sample(count, self.seed)

    def _statistics(self, network: nn.Module, data: ImageDataModule, folder: str) -> FeatureStatistics:
        table = data.table("val")
        rows = list(range(min(self.images, len(table))))
        device = next(iter(network.parameters())).device
        batches = self._batches(rows)
        key = {"network": network_hash(network), "pixels": pixel_hash(table.__getitems__(rows)["image"].numpy())}

        def compute() -> dict[str, Any]:
            images = (images_of(table, batch).to(device) for batch in batches)
            return feature_statistics(extract_features(network, images)).to_arrays()

        return FeatureStatistics.from_arrays(cached_arrays(folder, key, compute))

    def _batches(self, rows: list[int]) -> list[list[int]]:
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]


def shard(count: int, rank: int, ranks: int) -> list[int]:
    """Which of `count` images this rank takes: in turn, so that each image is one rank's and none is padded."""
    return list(range(rank, count, ranks))


def log_name(network: nn.Module) -> str:
    """`FID` for Inception alone; a name that loggers take."""
    return "FID" if isinstance(network, InceptionFeatures) else f"frechet_distance_{type(network).__name__}"
