"""`CIFAR10`: 60,000 small photographs (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009)."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.base import ImageDataModule
from patronus_pl.data.image_table import ImageTable, one_hot, resize
from patronus_pl.data.roots import found_in, require_file, require_folder
from patronus_pl.errors import CorruptFileError, DatasetNotFoundError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
REMEDY = (
    "set data.root to the folder that holds cifar-10-batches-bin (https://www.cs.toronto.edu/~kriz/cifar.html, "
    "binary version) or torchvision's cifar-10-batches-py, or set data.download to true"
)
RECORD = 1 + 3 * 32 * 32  # label, then the red, green and blue planes
VALIDATION = 5000  # the last images of the training batches


class CIFAR10(ImageDataModule):
    """Ten classes as attributes, 32×32 RGB.

    The official binary layout and torchvision's tree of pickles are read; of a pickle, nothing but plain containers and
    arrays is admitted. The last 5,000 of the 50,000 training images validate. Further arguments are those of
    `ImageDataModule`.

    Args:
        root: folder that holds `cifar-10-batches-bin` or `cifar-10-batches-py`, or one of these itself.
        image_size: height and width in pixels.
        download: fetch the binary version into `root` if neither is there (170 MB).

    Raises:
        DatasetNotFoundError: no such folder or batch.
        CorruptFileError: a batch is truncated, or a pickle holds something else.
    """

    attribute_names = ("Airplane", "Automobile", "Bird", "Cat", "Deer", "Dog", "Frog", "Horse", "Ship", "Truck")
    attribute_kind = ("unknown",) * 10

    def __init__(
        self,
        root: str | None = None,
        image_size: int = 32,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size, **kwargs)
        self.image_shape = (3, image_size, image_size)
        self.download = download

    def prepare_data(self) -> None:
        """Download the files, once per node."""
        if self.download and self.root is not None and not _batches(Path(self.root).expanduser()):
            from torchvision.datasets.utils import download_and_extract_archive  # costs a second; rarely needed

            download_and_extract_archive(URL, str(Path(self.root).expanduser()), md5=MD5)

    def load(self, split: str) -> ImageTable:
        """Return one split."""
        self.prepare_data()
        root = require_folder(self.root, "CIFAR10", REMEDY)
        batches = _batches(root)
        if not batches:
            raise DatasetNotFoundError(f"CIFAR10: no batches in {root} (it holds {found_in(root)}); {REMEDY}")
        folder, suffix = batches
        names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
        records = np.concatenate([_read(folder / f"{name}{suffix}") for name in names])
        cut = max(len(records) - VALIDATION, len(records) // 2)
        part = {"train": slice(0, cut), "val": slice(cut, None), "test": slice(None)}[split]
        ids = [f"{'test' if split == 'test' else 'train'}-{i:05d}" for i in range(len(records))][part]
        images = records[part, 1:].reshape(-1, 3, 32, 32)
        return ImageTable(resize(images, self.image_size), one_hot(records[part, 0], 10), ids)


def _batches(root: Path) -> tuple[Path, str] | None:
    """Return the folder of batches and their suffix, the binary layout first; None if there is none."""
    for name, suffix in (("cifar-10-batches-bin", ".bin"), ("cifar-10-batches-py", "")):
        for folder in (root / name, root):
            if (folder / f"data_batch_1{suffix}").is_file() or (folder / f"test_batch{suffix}").is_file():
                return folder, suffix
    return None


def _read(path: Path) -> NDArray[np.uint8]:
    """Return one batch as (n, 3073) records: label, then pixels."""
    require_file(path, "CIFAR10", REMEDY)
    records = _read_binary(path) if path.suffix == ".bin" else _read_pickle(path)
    if len(records) and records[:, 0].max() > 9:
        raise CorruptFileError(f"{path} has the label {records[:, 0].max()}; labels are 0 to 9. Fetch it again")
    return records


def _read_binary(path: Path) -> NDArray[np.uint8]:
    data = np.fromfile(path, np.uint8)
    if len(data) == 0 or len(data) % RECORD:
        raise CorruptFileError(f"{path} is truncated: {len(data)} bytes are no multiple of {RECORD}; fetch it again")
    return data.reshape(-1, RECORD)


class _ArraysOnly(pickle.Unpickler):
    """Admits containers, bytes and NumPy arrays, of which torchvision's batches consist, and no callable."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}:
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _dtype(kind: bytes | str, align: int, copy: int) -> np.dtype[Any]:
    """Return a dtype; NumPy of 2009 pickled its flags as numbers, of which NumPy of today warns."""
    return np.dtype(kind.decode() if isinstance(kind, bytes) else kind, bool(align), bool(copy))


def _read_pickle(path: Path) -> NDArray[np.uint8]:
    try:
        batch = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels = np.asarray(batch[b"data"], np.uint8).reshape(-1, RECORD - 1)
        return np.column_stack([np.asarray(batch[b"labels"], np.uint8), pixels])
    except Exception as error:  # a broken pickle can raise anything
        raise CorruptFileError(f"{path} is no batch of CIFAR-10 ({error}); use the binary version: {REMEDY}") from error
