"""`PrototypeStatistics`: each prototype's own range, stored in the model, and the health of all, logged as scalars."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from patronus_pl.analysis.explain.census import census
from patronus_pl.analysis.ranges import ranges
from patronus_pl.data.base import ImageDataModule
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.types import Activations


class PrototypeStatistics(pl.Callback):
    """After every validation, with the averaged weights: statistics of s over training images, and a census.

    Stored in the model (and so in the checkpoint): mean and standard deviation of each s_j, which standardise what the
    denoiser sees, and its 2nd and 98th percentile, the range in which an edit moves it. Logged: `prototypes/dead`,
    `prototypes/duplicates`, `prototypes/effective_rank`, `prototypes/mean_abs_correlation`.

    Args:
        images: how many training images, the first ones of the split.
        batch_size: images encoded at once.
    """

    def __init__(self, images: int = 4096, batch_size: int = 512) -> None:
        self.images, self.batch_size = images, batch_size
        self._ranges: dict[str, Tensor] = {}

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Encode, store and log. All ranks encode the same images, so all store the same numbers."""
        data: Any = getattr(trainer, "datamodule", None)
        if (
            trainer.sanity_checking
            or not isinstance(pl_module, PatronusModule)
            or not isinstance(data, ImageDataModule)
        ):
            return
        s = self._activations(pl_module, data)
        self._ranges = dict(zip(("low", "high"), ranges(s), strict=True))
        self._store_ranges(pl_module)
        pl_module.prototypes.follow(s)
        for name, value in census(s, pl_module.prototypes.vectors.detach()).summary().items():
            if isinstance(value, (int, float)):
                pl_module.log(f"prototypes/{name}", float(value), sync_dist=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the ranges to the raw weights too: the average follows them from now on."""
        if isinstance(pl_module, PatronusModule):
            self._store_ranges(pl_module)

    def _store_ranges(self, model: PatronusModule) -> None:
        for name, value in self._ranges.items():
            getattr(model.prototypes, name).copy_(value)

    def _activations(self, model: PatronusModule, data: ImageDataModule) -> Activations:
        table = data.table("train")
        rows = range(min(self.images, len(table)))
        return torch.cat(
            [
                model.encode(as_floats(table.__getitems__(rows[i : i + self.batch_size])["image"].to(model.device)))
                for i in range(0, len(rows), self.batch_size)
            ]
        )
