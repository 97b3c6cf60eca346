"""`ImageDataModule`: the interface that every data set of the package has."""

import os
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from patronus_pl.data.bias import BiasedSubset
from patronus_pl.data.image_table import ImageTable
from patronus_pl.data.loader import Batches, Turns, already_a_batch, leave_signals_to_the_parent
from patronus_pl.errors import InvalidOptionError
from patronus_pl.pixels import as_floats

SPLITS = ("train", "val", "test")
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class ImageDataModule(pl.LightningDataModule):
    """Training, validation and test images of one data set, with the attributes that are known of them.

    A batch is `{"image": (b, c, h, w), "attributes": (b, a), "id": list[str]}`: uint8 as the loader yields it, float in
    [-1, 1] once Lightning has moved it to the device. A subclass implements `load(split) -> ImageTable`, which also
    sets the names and kinds of the attributes if the class does not.

    Args:
        root: folder of the data set; None for data sets that need none.
        image_size: height and width in pixels.
        batch_size: images per step and device.
        num_workers: loader processes. 0 is fastest for images that are in memory already.
        seed: decides everything that is random in the data.
        limit: keep only the first n images of each split, for trials.
        bias: keep only the images that satisfy a `BiasedSubset`, in all splits.

    Raises:
        DatasetNotFoundError: `root` does not exist.
        InvalidOptionError: a size below 1.
    """

    attribute_names: tuple[str, ...] = ()
    attribute_kind: tuple[str, ...] = ()
    """`local`, `global` or `unknown` for each attribute: one part of the picture shows it, or all of it."""
    image_shape: tuple[int, int, int]
    """(channels, height, width)"""

    def __init__(
        self,
        root: str | None = None,
        image_size: int = 32,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        limit: int | None = None,
        bias: BiasedSubset | None = None,
    ) -> None:
        super().__init__()
        # The checkpoint stores these arguments, bias included, so that every command finds the same images again.
        self.save_hyperparameters(logger=False)
        if bias is not None and isinstance(self.hparams.get("bias"), BiasedSubset):  # built in Python, not from YAML
            self.hparams["bias"] = bias.describe()  # a checkpoint may hold plain values only
        if root is not None:  # so that commands that run in another folder find it
            self.hparams["root"] = os.path.abspath(os.path.expanduser(root))
        for name, value in (("image_size", image_size), ("batch_size", batch_size), ("limit", limit)):
            if value is not None and value < 1:
                raise InvalidOptionError(f"data.{name} is {value}; it must be at least 1")
        self.root, self.image_size, self.batch_size, self.num_workers = root, image_size, batch_size, num_workers
        self.seed, self.limit, self.bias = seed, limit, bias
        self.tables: dict[str, ImageTable] = {}

    def load(self, split: str) -> ImageTable:
        """Return all images of one split (`train`, `val` or `test`), before `bias` and `limit`."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the images, as plain values. Models and protocols store it."""
        return {
            "name": type(self).__name__,
            "image_shape": list(self.image_shape),
            "seed": self.seed,
            "limit": self.limit,
            "bias": None if self.bias is None else self.bias.describe(),
        }

    def attribute_masks(self, split: str, rows: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Return which pixels show each attribute in k rows of `table(split)`, (k, a, h, w); None if unknown."""
        return None

    def setup(self, stage: str | None = None) -> None:
        """Load the splits that `stage` needs (None: all)."""
        for split in STAGES.get(stage or "", SPLITS):
            self.table(split)

    def table(self, split: str) -> ImageTable:
        """Return one split after `bias` and `limit`. It is loaded once."""
        if split not in SPLITS:
            raise InvalidOptionError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        if split not in self.tables:
            table = self.selected(split)
            if len(table) == 0:
                raise InvalidOptionError(
                    f"the {split} split of {type(self).__name__} is empty; widen its split, bias or limit"
                )
            self.tables[split] = table
        return self.tables[split]

    def selected(self, split: str) -> ImageTable:
        """Load one split and apply `bias` and `limit`."""
        table = self.load(split)
        if self.bias is None and self.limit is None:
            return table
        return table.subset(self.selected_rows(table.attributes))

    def selected_rows(self, attributes: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the rows that `bias` and `limit` keep, ascending."""
        rows = np.arange(len(attributes))
        if self.bias is not None and len(rows):
            rows = self.bias.select(attributes, self.attribute_names)
        return rows[: self.limit]

    def loader(self, split: str, shuffle: bool = False) -> DataLoader[dict[str, Any]]:
        """Return this device's batches of one split as uint8. With `shuffle`, a smaller last batch is dropped."""
        table, trainer = self.table(split), self.trainer
        ranks, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        return Batches(
            table,
            batch_size=self.batch_size,
            sampler=Turns(len(table), self.batch_size, ranks, rank, self.seed if shuffle else None),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=already_a_batch,
            worker_init_fn=leave_signals_to_the_parent,
        )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return shuffled batches of the training split."""
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return batches of the validation split, in order."""
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return batches of the test split, in order."""
        return self.loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return batches of the test split, in order."""
        return self.loader("test")

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Turn bytes into floats in [-1, 1] on the device, so that only bytes are copied to it."""
        image: Tensor = batch["image"]
        if image.is_floating_point():
            return batch
        image = as_floats(image)
        if self.trainer is not None:  # the trainer's precision applies to floats only, and these were bytes
            image = self.trainer.precision_plugin.convert_input(image)
        return {**batch, "image": image}
