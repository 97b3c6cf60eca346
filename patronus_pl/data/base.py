"""`ImageDataModule`: what every data set of the package looks like from outside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from patronus_pl.data.bias import BiasedSubset
from patronus_pl.data.loader import Batches, Turns, already_a_batch
from patronus_pl.errors import DatasetNotFoundError, InvalidOptionError
from patronus_pl.types import Image, ImageBytes

SPLITS = ("train", "val", "test")
STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class ImageTable(Dataset[dict[str, Any]]):
    """Images in memory (or memory-mapped), read a whole batch at a time.

    Args:
        images: uint8 (N, c, h, w); a NumPy array, so that a memory map is never copied.
        attributes: float32 (n, a), 0/1, NaN where unknown.
        ids: n unique names.
        rows: which n of the N images these are; None for all.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        attributes: NDArray[np.float32],
        ids: Sequence[str],
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        count = len(images) if rows is None else len(rows)
        if not count == len(attributes) == len(ids):
            raise ValueError(f"{count} images, {len(attributes)} attribute rows and {len(ids)} ids do not match")
        self.attributes, self.ids = attributes, ids
        self._stored, self._rows = images, rows

    @property
    def images(self) -> NDArray[np.uint8]:
        """All images, (n, c, h, w): a copy in memory if this is a subset."""
        return self._stored if self._rows is None else self._stored[self._rows]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image: `image` uint8 (c, h, w), `attributes` (a,), `id`."""
        batch = self.__getitems__([index])
        return {"image": batch["image"][0], "attributes": batch["attributes"][0], "id": batch["id"][0]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """A batch in one gather: ten times faster than stacking single images."""
        rows = np.asarray(indices)
        stored = rows if self._rows is None else self._rows[rows]
        return {
            "image": torch.from_numpy(self._stored[stored]),
            "attributes": torch.from_numpy(self.attributes[rows]),
            "id": [self.ids[i] for i in rows],
        }

    def __getstate__(self) -> dict[str, Any]:
        """Send a memory map to a loader process as the name of its file, never as its bytes."""
        state = self.__dict__.copy()
        if isinstance(self._stored, np.memmap):
            state["_stored"] = str(self._stored.filename)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(state["_stored"], str):
            self._stored = np.load(state["_stored"], mmap_mode="r")

    def subset(self, rows: NDArray[np.int64]) -> "ImageTable":
        """The given rows, in the given order; the images stay where they are."""
        stored = rows if self._rows is None else self._rows[rows]
        return ImageTable(self._stored, self.attributes[rows], [self.ids[i] for i in rows], stored)


def normalise(images: ImageBytes) -> Image:
    """0..255 → [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_bytes(images: Image) -> ImageBytes:
    """[-1, 1] → 0..255, rounded (truncation would darken every image by half a grey level)."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def resize(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Square images (n, c, h, w), bilinear and anti-aliased: what Pillow's `resize` gives, five times faster."""
    if images.shape[-2:] == (size, size):
        return images
    shrunk = interpolate(torch.tensor(images), size=(size, size), mode="bilinear", antialias=True)
    return np.asarray(shrunk.numpy(), dtype=np.uint8)


def one_hot(labels: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    """Classes as attributes: (n,) → (n, classes)."""
    return np.eye(classes, dtype=np.float32)[labels]


class ImageDataModule(pl.LightningDataModule):
    """Train, validation and test images of one data set, with the attributes that are known of them.

    A batch is `{"image": (b, c, h, w), "attributes": (b, a), "id": list[str]}`: uint8 as the loader yields it, float in
    [-1, 1] once Lightning has moved it to the device. Subclasses implement `load(split) -> ImageTable`, which sets the
    names and kinds of the attributes if the class does not.

    Args:
        root: folder of the data set; None for data that need none.
        image_size: height and width in pixels.
        batch_size: images a step and device.
        num_workers: loader processes; 0 is fastest for images that are already in memory.
        seed: of everything random in the data.
        limit: keep the first n images of each split (for trials).
        bias: keep only images that satisfy a `BiasedSubset` (all splits).

    Raises:
        DatasetNotFoundError: `root` does not exist.
        InvalidOptionError: a size that is not positive.
    """

    attribute_names: tuple[str, ...] = ()
    attribute_kind: tuple[str, ...] = ()  # "local" | "global" | "unknown", an attribute each
    image_shape: tuple[int, int, int]

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
        # The checkpoint carries the data's configuration, bias included, so that all that follows sees the same images.
        self.save_hyperparameters(logger=False)
        if bias is not None and isinstance(self.hparams.get("bias"), BiasedSubset):  # built in Python, not from YAML
            self.hparams["bias"] = bias.describe()  # checkpoints hold plain values, or nobody may load them
        for name, value in (("image_size", image_size), ("batch_size", batch_size), ("limit", limit)):
            if value is not None and value < 1:
                raise InvalidOptionError(f"data.{name} is {value}; it must be at least 1")
        self.root, self.image_size, self.batch_size, self.num_workers = root, image_size, batch_size, num_workers
        self.seed, self.limit, self.bias = seed, limit, bias
        self.tables: dict[str, ImageTable] = {}

    def load(self, split: str) -> ImageTable:
        """All images of one split (`train`, `val` or `test`), before `bias` and `limit`."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What decides the images, as plain values: stored with the model and in every protocol."""
        return {
            "name": type(self).__name__,
            "image_shape": list(self.image_shape),
            "seed": self.seed,
            "limit": self.limit,
            "bias": None if self.bias is None else self.bias.describe(),
        }

    def attribute_masks(self, split: str, rows: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """(k, a, h, w): which pixels show each attribute in the given rows of `table(split)`; None if unknown."""
        return None

    def setup(self, stage: str | None = None) -> None:
        """Load the splits that `stage` needs (None: all)."""
        for split in STAGES.get(stage or "", SPLITS):
            self.table(split)

    def table(self, split: str) -> ImageTable:
        """One split after `bias` and `limit`, loaded once."""
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
        """One split after `bias` and `limit`."""
        table = self.load(split)
        if self.bias is None and self.limit is None:
            return table
        return table.subset(self.selected_rows(table.attributes))

    def selected_rows(self, attributes: NDArray[np.float32]) -> NDArray[np.int64]:
        """Which rows `bias` and `limit` keep, ascending."""
        rows = np.arange(len(attributes))
        if self.bias is not None and len(rows):
            rows = self.bias.select(attributes, self.attribute_names)
        return rows[: self.limit]

    def loader(self, split: str, shuffle: bool = False) -> DataLoader[dict[str, Any]]:
        """Batches of one split as uint8, those of this device; `shuffle` also drops the last, smaller one."""
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
        )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Shuffled batches of the training split."""
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches of the validation split, in order."""
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches of the test split, in order."""
        return self.loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches of the test split, in order."""
        return self.loader("test")

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Normalise on the device: bytes travel, floats do not."""
        image: Tensor = batch["image"]
        if image.is_floating_point():
            return batch
        image = normalise(image)
        if self.trainer is not None:  # it gave floats its precision on the way, when these were bytes still
            image = self.trainer.precision_plugin.convert_input(image)
        return {**batch, "image": image}


def found_in(folder: Path) -> str:
    """The first names in a folder, for errors that say what was there instead."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join([*names[:5], "…"] if len(names) > 5 else names) or "nothing"


def require_file(path: Path, what: str, remedy: str) -> Path:
    """The file `path`, or one error that names it, what is beside it, and how to get it."""
    if not path.is_file():
        beside = f"{path.parent} holds {found_in(path.parent)}" if path.parent.is_dir() else f"no folder {path.parent}"
        raise DatasetNotFoundError(f"{what}: no file {path.name} ({beside}); {remedy}")
    return path


def require_folder(root: str | None, what: str, remedy: str) -> Path:
    """The folder `root`, or one error that says what was looked for and how to get it."""
    if root is None:
        raise DatasetNotFoundError(f"{what} needs data.root; {remedy}")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DatasetNotFoundError(f"{what}: no folder {str(path)!r}; {remedy}")
    return path
