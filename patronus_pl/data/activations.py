"""`Activations`: the file that `patronus encode` wrote, as training data of a prior over prototype activations."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from patronus_pl.data.loader import Batches, Turns, already_a_batch
from patronus_pl.errors import CorruptFileError, DatasetNotFoundError, InvalidOptionError

REMEDY = "write it with: patronus encode CKPT --data … --out activations.npz"


class ActivationTable(Dataset[dict[str, Any]]):
    """Activations in memory, read a batch at a time.

    Args:
        activations: float32 (n, m).
        attributes: float32 (n, a), 0/1, NaN where unknown.
        ids: n names.
    """

    def __init__(self, activations: NDArray[np.float32], attributes: NDArray[np.float32], ids: list[str]) -> None:
        self.activations, self.attributes, self.ids = activations, attributes, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one row: `activations` (m,), `attributes` (a,) and `id`."""
        return {key: values[0] for key, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return a batch with one indexing operation."""
        rows = np.asarray(indices)
        return {
            "activations": torch.from_numpy(self.activations[rows]),
            "attributes": torch.from_numpy(self.attributes[rows]),
            "id": [self.ids[i] for i in rows],
        }


class Activations(pl.LightningDataModule):
    """Prototype activations s of real images, from which a prior p(s) learns.

    A batch is `{"activations": (b, m), "attributes": (b, a), "id": list[str]}`. If the file names the split
    of each row, that is kept; otherwise rows are drawn for validation.

    Args:
        file: an .npz with `activations` (n, m), and `attributes` (n, a), `attribute_names` and `ids` if known.
        batch_size: rows per step and device.
        val_fraction: share of the rows that validate, if the file has no splits.
        seed: decides which rows validate, and the order of training.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptFileError: the file is no .npz, lacks activations, or its arrays do not fit together.
        InvalidOptionError: `batch_size` or `val_fraction` is impossible.
    """

    def __init__(self, file: str, batch_size: int = 256, val_fraction: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise InvalidOptionError(f"data.batch_size is {batch_size}; it must be at least 1")
        if not 0 < val_fraction < 1:
            raise InvalidOptionError(f"data.val_fraction is {val_fraction}; it must lie between 0 and 1")
        self.file, self.batch_size, self.val_fraction, self.seed = file, batch_size, val_fraction, seed
        self.attribute_names: tuple[str, ...] = ()
        self.tables: dict[str, ActivationTable] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the file, once."""
        if self.tables:
            return
        path = Path(self.file).expanduser()
        arrays = _read(path)
        count = len(arrays["activations"])
        attributes = arrays.get("attributes", np.empty((count, 0))).astype(np.float32)
        ids = [str(name) for name in arrays.get("ids", np.arange(count))]
        self.attribute_names = tuple(str(name) for name in arrays.get("attribute_names", ()))
        activations = arrays["activations"].astype(np.float32)
        for split, rows in self._splits(arrays, count).items():
            self.tables[split] = ActivationTable(activations[rows], attributes[rows], [ids[i] for i in rows])
            if split != "test" and len(rows) == 0:
                raise InvalidOptionError(
                    f"{path}: its {count} rows leave nothing in the {split} split; encode more images"
                )

    @property
    def size(self) -> int:
        """Return m, the number of prototypes."""
        self.setup()
        return int(self.tables["train"].activations.shape[1])

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the rows, as plain values."""
        return {"name": "Activations", "file": self.file, "val_fraction": self.val_fraction, "seed": self.seed}

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return shuffled batches; a smaller last one is dropped."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation rows, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the test rows if the file has any, else the validation rows."""
        return self._loader("test" if len(self.tables["test"]) else "val")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return what `test_dataloader` returns."""
        return self.test_dataloader()

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader[dict[str, Any]]:
        table, trainer = self.tables[split], self.trainer
        ranks, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        return Batches(
            table,
            batch_size=self.batch_size,
            sampler=Turns(len(table), self.batch_size, ranks, rank, self.seed if shuffle else None),
            collate_fn=already_a_batch,
        )

    def _splits(self, arrays: dict[str, NDArray[Any]], count: int) -> dict[str, NDArray[np.int64]]:
        split = arrays.get("split")
        if split is None or not {"train", "val"} <= set(split.tolist()):
            split = np.full(count, "train")
            drawn = np.random.default_rng(self.seed).permutation(count)[: max(1, round(count * self.val_fraction))]
            split[drawn] = "val"
        return {name: np.flatnonzero(split == name) for name in ("train", "val", "test")}


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise DatasetNotFoundError(f"no file of activations {path}; {REMEDY}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise CorruptFileError(f"{path} is no complete .npz of plain arrays ({error}); {REMEDY}") from error
    activations = arrays.get("activations")
    if activations is None or activations.ndim != 2 or activations.dtype.kind != "f":
        found = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items()) or "nothing"
        raise CorruptFileError(f"{path} has no float array activations (n, m), but {found}; {REMEDY}")
    if not np.isfinite(activations).all():
        raise CorruptFileError(f"{path}: {(~np.isfinite(activations)).sum()} activations are not finite; encode again")
    for name in ("attributes", "ids", "split"):
        if name in arrays and len(arrays[name]) != len(activations):
            raise CorruptFileError(f"{path}: {len(arrays[name])} {name} for {len(activations)} activations; {REMEDY}")
    return arrays
