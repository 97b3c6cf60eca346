"""`ImageFiles`: what the data sets that are folders of image files have in common."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from patronus_pl.data.base import SPLITS, ImageDataModule, ImageTable, require_folder
from patronus_pl.data.bias import BiasedSubset
from patronus_pl.data.cache import cache_folder, decode_all
from patronus_pl.data.decode import EXTENSIONS, Preprocessing
from patronus_pl.errors import InvalidOptionError


class Listing(NamedTuple):
    """The files of one split, before anything is decoded."""

    files: list[Path]
    attributes: NDArray[np.float32]
    """(n, a)"""
    ids: list[str]

    def take(self, rows: NDArray[np.int64]) -> "Listing":
        """The given rows, in the given order."""
        return Listing([self.files[i] for i in rows], self.attributes[rows], [self.ids[i] for i in rows])


class ImageFiles(ImageDataModule):
    """Image files, decoded once into a cache. Subclasses say which files a split has: `list_splits`.

    Args:
        root: folder of the data set.
        image_size: height and width in pixels.
        batch_size: images a step and device.
        num_workers: loader processes.
        seed: of random splits.
        limit: keep the first n images of each split; only these are decoded.
        bias: keep only images that satisfy a `BiasedSubset`.
        channels: 1 or 3.
        crop: `center` or `none`, see `Preprocessing`.
        cache_dir: where decoded images are kept; by default `.patronus_cache` in the root.
        max_unreadable: share of the files of a split that may be unreadable; these are skipped, with a warning.
        in_memory_mb: splits up to this size are read into memory, larger ones stay on disk, memory-mapped.

    Raises:
        InvalidOptionError: `channels` or `max_unreadable` is impossible.
    """

    remedy = "set data.root to the folder of the data set"

    def __init__(
        self,
        root: str | None,
        image_size: int,
        batch_size: int,
        num_workers: int,
        seed: int,
        limit: int | None,
        bias: BiasedSubset | None,
        channels: int,
        crop: Literal["center", "none"],
        cache_dir: str | None,
        max_unreadable: float,
        in_memory_mb: int,
    ) -> None:
        super().__init__(root, image_size, batch_size, num_workers, seed, limit, bias)
        if channels not in (1, 3):
            raise InvalidOptionError(f"data.channels is {channels}; choose 1 (grey) or 3 (RGB)")
        if crop not in ("center", "none"):
            raise InvalidOptionError(f"data.crop is {crop!r}; choose center or none")
        if not 0 <= max_unreadable <= 1:
            raise InvalidOptionError(f"data.max_unreadable is {max_unreadable}; it is a share, 0 to 1")
        self.image_shape = (channels, image_size, image_size)
        self.preprocessing = Preprocessing(image_size, channels, crop)
        self.cache_dir, self.max_unreadable, self.in_memory_mb = cache_dir, max_unreadable, in_memory_mb
        self._listings: dict[str, Listing] | None = None

    def list_splits(self, root: Path) -> dict[str, Listing]:
        """The files, attributes and ids of each split."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Decode what the trainer needs, once a node, before the other ranks ask for it; without one, nothing yet."""
        if self.trainer is not None:
            self.setup(self.trainer.state.fn)

    def load(self, split: str) -> ImageTable:
        """All readable images of one split."""
        return self._decode(split, self._listing(split))

    def selected(self, split: str) -> ImageTable:
        """One split after `bias` and `limit`: every bias reads one cache, a limit decodes no more than it keeps."""
        if self.limit is None:
            return super().selected(split)
        listing = self._listing(split)
        return self._decode(split, listing.take(self.selected_rows(listing.attributes)))

    def describe(self) -> dict[str, Any]:
        """What decides the images, the crop among it."""
        return {**super().describe(), "crop": self.preprocessing.crop}

    def _listing(self, split: str) -> Listing:
        if self._listings is None:
            self._listings = self.list_splits(self._folder())
        return self._listings[split]

    def _folder(self) -> Path:
        return require_folder(self.root, type(self).__name__, self.remedy)

    def _decode(self, split: str, listing: Listing) -> ImageTable:
        name = f"{type(self).__name__}-{split}"
        folder = cache_folder(self._folder(), self.cache_dir)
        images, unreadable = decode_all(
            listing.files, self._folder(), self.preprocessing, folder, name, self.max_unreadable, self.in_memory_mb
        )
        table = ImageTable(images, listing.attributes, listing.ids)
        if not unreadable:
            return table
        rank_zero_warn(f"{name}: skipped {some(list(unreadable.values()), 'unreadable images')}")
        return table.subset(np.setdiff1d(np.arange(len(table)), list(unreadable)))


def some(names: list[str], what: str) -> str:
    """`3 unreadable images (a, b, …)`."""
    return f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def find_images(root: Path) -> tuple[list[Path], list[Path]]:
    """Image files below a folder at any depth, sorted, and the other files; nothing hidden."""
    everything = sorted(path for path in root.rglob("*") if path.is_file())
    visible = [path for path in everything if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    images = [path for path in visible if path.suffix.lower() in EXTENSIONS]
    return images, [path for path in visible if path.suffix.lower() not in EXTENSIONS]


def split_randomly(groups: list[str], val_fraction: float, test_fraction: float, seed: int) -> list[str]:
    """A split for each image such that no group (a patient, or one image) is in two of them.

    Shares are shares of groups; a split that is wanted gets at least one.

    Raises:
        InvalidOptionError: fractions outside [0, 1), or that leave nothing to train on.
    """
    for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise InvalidOptionError(f"data.{name} is {value}; it is a share, at least 0 and below 1")
    names, member = np.unique(np.array(groups, dtype=str), return_inverse=True)
    val, test = (int(np.ceil(share * len(names) - 1e-9)) for share in (val_fraction, test_fraction))
    if len(names) and val + test >= len(names):
        raise InvalidOptionError(
            f"data.val_fraction = {val_fraction} and data.test_fraction = {test_fraction} of {len(names)} "
            "images or groups leave none to train on; lower them"
        )
    split = ["train"] * (len(names) - val - test) + ["val"] * val + ["test"] * test
    drawn = np.random.default_rng(seed).permutation(len(names))
    return [split[drawn[group]] for group in member]


def by_split(listing: Listing, split: list[str]) -> dict[str, Listing]:
    """Cut a listing into its three splits."""
    return {name: listing.take(np.flatnonzero(np.array(split) == name)) for name in SPLITS}
