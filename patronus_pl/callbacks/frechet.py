"""`SampleDistance`: a callback that measures how far samples are from real images while a model is trained."""

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
from patronus_pl.diffusion.sampling import Sampling
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
from patronus_pl.ranks import Ranks
from patronus_pl.types import Activations


class SampleDistance(pl.Callback):
    """Log the Fréchet distance of samples from the validation images, with the averaged weights, during training.

    Image k is decoded from the activations of validation image k and noise of its own. Several devices share the images
    and add their sums, so that each image counts once. The statistics of the real images are kept in a folder, where
    later runs find them. Training is the same with and without this callback: it uses no common random number, and an
    error becomes one warning.

    Logged: `samples/FID` with Inception's features, `samples/frechet_distance_<network>` with any others, and
    `samples/prior/…` where a prior is given.

    List it before `EMA`: callbacks after `EMA` see the raw weights.

    Args:
        every: measure after every so many validations.
        images: number of images to sample, and of validation images to compare them with; at most those that there are.
        sampling: how images are drawn. The default is 20 steps of DPM-Solver++.
        features: feature network, see `patronus_pl.metrics`. The default, `RandomFeatures`, needs no download; its
            distances are no FID.
        prior: checkpoint of a prior, whose samples are measured too. Use it only where training leaves the encoder as
            it is: a prior belongs to the activations that it was trained on.
        cache: folder for the statistics of real images; by default `features` in the folder of the run.

    Raises, when training starts:
        InvalidOptionError: a number is not positive.
    """

    def __init__(
        self,
        every: int = 5,
        images: int = 2048,
        sampling: Sampling = Sampling(),
        features: nn.Module | None = None,
        prior: str | None = None,
        cache: str | None = None,
    ) -> None:
        self.every, self.images, self.sampling = every, images, sampling
        self.features, self.prior, self.cache = features, prior, cache
        self._training, self._validations, self._warned = False, 0, False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse impossible options. The constructor does not: jsonargparse would bury the message under its own."""
        numbers = {"every": self.every, "images": self.images}
        numbers |= {f"sampling.{name}": getattr(self.sampling, name) for name in ("steps", "batch_size")}
        for name, number in numbers.items():
            if number < 1:
                raise InvalidOptionError(f"SampleDistance.{name} is {number}; it must be at least 1")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure from now on, unless this is a trial run of one batch."""
        self._training = not getattr(trainer, "fast_dev_run", False)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and log, if it is time."""
        data: Any = getattr(trainer, "datamodule", None)
        training = self._training and not trainer.sanity_checking
        if not training or not isinstance(pl_module, PatronusModule) or not isinstance(data, ImageDataModule):
            return
        self._validations += 1
        if self._validations % self.every == 0:
            with isolate_rng():
                self._measure(trainer, pl_module, data)

    def _measure(self, trainer: pl.Trainer, model: PatronusModule, data: ImageDataModule) -> None:
        count = min(self.images, len(data.table("val")))
        mine = Ranks(trainer.global_rank, trainer.world_size).share(count)
        sources: dict[str, Callable[[], Activations]] = {"": lambda: self._of_images(model, data, mine)}
        if self.prior is not None:
            sources["prior/"] = lambda: self._of_prior(model, count)[list(mine)]
        for kind, source in sources.items():
            metric = self._attempt(lambda source=source: self._sums(trainer, model, data, source(), mine))  # type: ignore[misc]
            # First all devices agree: one that waits for the sums of another that failed would wait forever.
            if not trainer.strategy.reduce_boolean_decision(metric is not None, all=True) or metric is None:
                return
            distance = self._attempt(metric.compute)
            if distance is not None:
                model.log(f"samples/{kind}{log_name(metric.network)}", distance.float(), sync_dist=True)

    def _attempt(self, measure: Callable[[], Any]) -> Any:
        """Return what is measured; None, and the first time a warning, if it fails."""
        try:
            return measure()
        except Exception as error:
            if not self._warned:
                rank_zero_warn(f"SampleDistance: {type(error).__name__}: {error}; training goes on without it")
            self._warned = True
        return None

    # ------------------------------------------------------------------------------------------ on one device

    def _sums(
        self, trainer: pl.Trainer, model: PatronusModule, data: ImageDataModule, s: Activations, mine: range
    ) -> FrechetDistance:
        """Return the metric with the sums of this device's samples, on the first device also those of real images."""
        network = self.features or RandomFeatures(model.image_shape[0])
        metric = FrechetDistance(network.to(model.device)).to(model.device)
        folder = self.cache or str(Path(trainer.log_dir or ".", "features"))  # on all devices: log_dir waits for them
        with trainer.precision_plugin.forward_context():
            for pictures in decode_from_noise(model, s, mine, self.sampling):
                metric.update(as_floats(pictures.to(model.device)), real=False)
        if trainer.is_global_zero:
            metric.set_real(self._of_real(metric.network, model.device, data, folder))
        return metric

    def _of_images(self, model: PatronusModule, data: ImageDataModule, mine: range) -> Activations:
        """Return the activations of this device's validation images."""
        table = data.table("val")
        return torch.cat([encode(model, images_of(table, list(rows))) for rows in self._batches(mine)])

    def _of_prior(self, model: PatronusModule, count: int) -> Activations:
        """Return activations that the prior draws, the same on every device."""
        prior = LatentPrior.load_from_checkpoint(str(self.prior), model.device)
        prior.check_fits(model.prototypes.count)
        return prior.sample(count, self.sampling.seed)

    def _of_real(
        self, network: nn.Module, device: torch.device, data: ImageDataModule, folder: str
    ) -> FeatureStatistics:
        """Return the statistics of the real images, from the folder if they are there."""
        table = data.table("val")
        rows = range(min(self.images, len(table)))
        key = {"network": network_hash(network), "pixels": pixel_hash(table.__getitems__(list(rows))["image"].numpy())}

        def compute() -> dict[str, Any]:
            images = (images_of(table, list(batch)).to(device) for batch in self._batches(rows))
            return feature_statistics(extract_features(network, images)).to_arrays()

        return FeatureStatistics.from_arrays(cached_arrays(folder, key, compute))

    def _batches(self, rows: range) -> list[range]:
        size = self.sampling.batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]


def log_name(network: nn.Module) -> str:
    """Return `FID` for Inception's features, else a name that loggers accept."""
    return "FID" if isinstance(network, InceptionFeatures) else f"frechet_distance_{type(network).__name__}"
