"""`FashionMNIST`: 70,000 grey pictures of clothes (Xiao, Rasul & Vollgraf, arXiv 1708.07747; MIT licence)."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.base import ImageDataModule
from patronus_pl.data.image_table import ImageTable, one_hot, resize
from patronus_pl.data.roots import found_in, require_folder
from patronus_pl.errors import CorruptFileError, DatasetNotFoundError

DEBIAN = "/usr/share/datasets/fashion-mnist"
REMEDY = (
    "set data.root to a folder with train-images-idx3-ubyte(.gz) and its three companions, install Debian's package "
    "dataset-fashion-mnist, or set data.download to true"
)
VALIDATION = 5000  # the last images of the training file


class FashionMNIST(ImageDataModule):
    """Ten classes of clothes as attributes; the paper's 28 → 32 pixels by default.

    The last 5,000 of the 60,000 training images validate. Further arguments are those of `ImageDataModule`.

    Args:
        root: folder with the four IDX files, gzipped or not, or with `FashionMNIST/raw`, as torchvision leaves it; None
            looks where Debian's package puts them.
        image_size: height and width in pixels.
        download: fetch the files into `root` if they are not there (30 MB).

    Raises:
        DatasetNotFoundError: no such folder, or not all four files in it.
        CorruptFileError: a file is truncated or no IDX file.
    """

    attribute_names = (
        "T-shirt",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle_boot",
    )
    attribute_kind = ("unknown",) * 10

    def __init__(
        self,
        root: str | None = None,
        image_size: int = 32,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size, **kwargs)
        self.image_shape = (1, image_size, image_size)
        self.download = download

    def prepare_data(self) -> None:
        """Download the files, once per node."""
        if self.download and self.root is not None and not _folders(self.root):
            from torchvision.datasets import FashionMNIST as Download  # costs a second; rarely needed

            Download(str(Path(self.root).expanduser()), download=True)

    def load(self, split: str) -> ImageTable:
        """Return one split from the IDX files."""
        self.prepare_data()
        stem, name = ("t10k", "test") if split == "test" else ("train", "train")
        folder = self._folder()
        images = read_idx(_file(folder, f"{stem}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(_file(folder, f"{stem}-labels-idx1-ubyte"), dimensions=1)
        if len(images) != len(labels) or (len(labels) and labels.max() > 9):
            raise CorruptFileError(
                f"{folder}: {len(images)} {name} images and {len(labels)} labels up to {labels.max(initial=0)} do not "
                f"belong together; {REMEDY}"
            )
        cut = max(len(images) - VALIDATION, len(images) // 2)
        part = {"train": slice(0, cut), "val": slice(cut, None), "test": slice(None)}[split]
        ids = [f"{name}-{i:05d}" for i in range(len(images))][part]
        return ImageTable(resize(images[part, None], self.image_size), one_hot(labels[part], 10), ids)

    def _folder(self) -> Path:
        root = require_folder(self.root or DEBIAN, "FashionMNIST", REMEDY)
        if folders := _folders(str(root)):
            return folders[0]
        raise DatasetNotFoundError(f"FashionMNIST: no IDX files in {root} (it holds {found_in(root)}); {REMEDY}")


def _folders(root: str) -> list[Path]:
    """Return the folders below `root` that hold the training images."""
    places = [Path(root).expanduser() / below for below in (".", "FashionMNIST/raw", "raw")]
    return [place for place in places if any(place.glob("train-images-idx3-ubyte*"))]


def _file(folder: Path, stem: str) -> Path:
    for path in (folder / stem, folder / f"{stem}.gz"):
        if path.is_file():
            return path
    raise DatasetNotFoundError(f"FashionMNIST: no {stem}(.gz) in {folder} (it holds {found_in(folder)}); {REMEDY}")


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Layout: 0, 0, 8 (unsigned byte), number of dimensions, one big-endian uint32 per dimension, data.

    Raises:
        CorruptFileError: another magic number, or more or fewer bytes than the header announces.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptFileError(f"{path} is no complete gzip file ({error}); fetch it again") from error
    head = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < head:
        raise CorruptFileError(
            f"{path} is no IDX file of {dimensions} dimensions: it starts with {data[:4].hex(' ') or 'nothing'}, "
            f"not 00 00 08 {dimensions:02x}; fetch it again"
        )
    shape = np.frombuffer(data, ">u4", dimensions, 4).astype(int)
    if len(data) - head != shape.prod():
        raise CorruptFileError(
            f"{path} is truncated or too long: {len(data) - head} bytes of data where {'×'.join(map(str, shape))} "
            "are announced; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
