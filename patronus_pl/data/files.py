"""`ImageFiles`: the base of all data sets that are folders of image files."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from patronus_pl.data.base import SPLITS, ImageDataModule
from patronus_pl.data.cache import cache_folder, decode_all
from patronus_pl.data.decode import Preprocessing
from patronus_pl.data.deep import white_of
from patronus_pl.data.image_table import ImageTable
from patronus_pl.data.roots import require_folder
from patronus_pl.data.splits import SplitRule, split_groups
from patronus_pl.data.trained import TrainedOn
from patronus_pl.errors import InvalidOptionError


class Listing(NamedTuple):
    """The files of one split, before anything is decoded."""

    files: list[Path]
    attributes: NDArray[np.float32]
    """(n, a)"""
    ids: list[str]

    def take(self, rows: NDArray[np.int64]) -> "Listing":
        """Return the given rows in the given order."""
        return Listing([self.files[i] for i in rows], self.attributes[rows], [self.ids[i] for i in rows])


class ImageFiles(ImageDataModule):
    """Image files, decoded once into a cache. A subclass says which files each split has: `list_splits`.

    Further arguments are those of `ImageDataModule`.

    Args:
        root: folder of the data set.
        image_size: height and width in pixels.
        channels: 1 (grey) or 3 (RGB).
        crop: `center` cuts the largest central square; `none` squashes the whole image into a square.
        split_by: how images are drawn for validation and testing where the data set has no splits of its own. `hash`:
            by seed and name, so that a new image moves none of the others; shares are approximate. `position`: exact
            shares that a new image changes, as version 0.1 did.
        white: the grey or colour value that is white in images of more than 8 bits; None takes the smallest of 1, 255,
            1023, 4095, 16383 and 65535 that no such image of the data set exceeds.
        cache_dir: where decoded images are kept; None for `.patronus_cache` in the root.
        max_unreadable: share of the files of a split that may be unreadable. These are skipped with a warning.
        in_memory_mb: splits up to this size in MB are read into memory, larger ones are memory-mapped.

    Raises:
        InvalidOptionError: an option has an impossible value.
    """

    remedy = "set data.root to the folder of the data set"

    def __init__(
        self,
        root: str | None,
        image_size: int = 64,
        channels: Literal[1, 3] = 3,
        crop: Literal["center", "none"] = "none",
        split_by: SplitRule = "hash",
        white: float | None = None,
        cache_dir: str | None = None,
        max_unreadable: float = 0.001,
        in_memory_mb: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size, **kwargs)
        if channels not in (1, 3):
            raise InvalidOptionError(f"data.channels is {channels}; choose 1 (grey) or 3 (RGB)")
        if crop not in ("center", "none"):
            raise InvalidOptionError(f"data.crop is {crop!r}; choose center or none")
        if split_by not in ("hash", "position"):
            raise InvalidOptionError(f"data.split_by is {split_by!r}; choose hash or position")
        if white is not None and not 0 < white < float("inf"):
            raise InvalidOptionError(f"data.white is {white}; it must be above 0")
        if not 0 <= max_unreadable <= 1:
            raise InvalidOptionError(f"data.max_unreadable is {max_unreadable}; it is a share, 0 to 1")
        if cache_dir is not None:
            self.hparams["cache_dir"] = os.path.abspath(os.path.expanduser(cache_dir))
        self.image_shape = (channels, image_size, image_size)
        self.preprocessing = Preprocessing(image_size, channels, crop, white)
        self.split_by, self.cache_dir = split_by, cache_dir
        self.max_unreadable, self.in_memory_mb = max_unreadable, in_memory_mb
        self._listings: dict[str, Listing] | None = None
        self._trained_on: TrainedOn | None = None
        self._white_known = False

    def list_splits(self, root: Path) -> dict[str, Listing]:
        """Return the files, attributes and ids of each split."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Decode what the trainer needs, once per node, before the other ranks ask for it. Without one, do nothing."""
        if self.trainer is not None:
            self.setup(self.trainer.state.fn)

    def setup(self, stage: str | None = None) -> None:
        """Load the splits that `stage` needs (None: all).

        Raises:
            InvalidOptionError: fewer than two images to train on, where `stage` is `fit`.
        """
        super().setup(stage)
        if stage == "fit" and (count := len(self.tables["train"])) < 2:
            raise InvalidOptionError(
                f"{type(self).__name__}: the train split has {count} image; at least 2 are needed; add images"
            )

    def load(self, split: str) -> ImageTable:
        """Return all readable images of one split."""
        return self._decode(split, self.listings()[split])

    def selected(self, split: str) -> ImageTable:
        """Load one split and apply `bias` and `limit`: every bias reads one cache, a limit decodes what it keeps."""
        if self.limit is None:
            table = super().selected(split)
        else:
            listing = self.listings()[split]
            table = self._decode(split, listing.take(self.selected_rows(listing.attributes)))
        if self._trained_on is not None and split != "train":
            self._trained_on.warn_of_known_images(type(self).__name__, split, table.ids)
        return table

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the images, the crop included."""
        how = {"crop": self.preprocessing.crop}
        return {**super().describe(), **how, **({"white": white} if (white := self.preprocessing.white) else {})}

    def listings(self) -> dict[str, Listing]:
        """Return the files of all splits. They are listed once."""
        if self._listings is None:
            self._listings = self.list_splits(self._folder())
        return self._listings

    def draw_splits(self, groups: list[str], val_fraction: float, test_fraction: float) -> list[str]:
        """Return the split of each image by `split_by`, and say how many images each split got."""
        splits = split_groups(self.split_by, groups, val_fraction, test_fraction, self.seed)
        if len(set(splits)) > 1 and self.split_by == "hash":
            count = Counter(splits)
            shares = ", ".join(f"{count[split]} {split}" for split in SPLITS)
            rank_zero_info(f"{type(self).__name__}: {shares} (drawn by a hash of data.seed and each name)")
        return splits

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the images that it was trained on."""
        if "train" not in self.tables:
            return {}
        listed = [name for listing in self.listings().values() for name in listing.ids]
        return TrainedOn.from_ids(self.tables["train"].ids, listed).as_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Compare the images with those that a checkpoint was trained on, and warn where they differ."""
        self._trained_on = TrainedOn.from_dict(state_dict)
        if self._trained_on is None:
            return
        listed = [name for listing in self.listings().values() for name in listing.ids]
        self._trained_on.warn_of_changes(type(self).__name__, listed)
        for split, table in self.tables.items():
            if split != "train":
                self._trained_on.warn_of_known_images(type(self).__name__, split, table.ids)

    def change_split_rule(self, split_by: SplitRule) -> None:
        """Split anew by another rule, and load again what was loaded."""
        loaded = list(self.tables)
        self.split_by, self._listings, self.tables = split_by, None, {}
        self.hparams["split_by"] = split_by
        for split in loaded:
            self.table(split)

    def _folder(self) -> Path:
        return require_folder(self.root, type(self).__name__, self.remedy)

    def _find_white(self, folder: Path) -> Preprocessing:
        """Set the white of deep images from all images of the data set, unless it was given, and say it."""
        if self.preprocessing.white is None and not self._white_known:
            name = type(self).__name__
            files = [file for listing in self.listings().values() for file in listing.files]
            white = white_of(name, files, self._folder(), folder)
            self._white_known = True
            if white is not None:
                self.preprocessing = replace(self.preprocessing, white=white)
                self.hparams["white"] = white  # the checkpoint keeps it for images that come later
                rank_zero_info(f"{name}: images of more than 8 bits: {white:g} is white; data.white sets another value")
        return self.preprocessing

    def _decode(self, split: str, listing: Listing) -> ImageTable:
        name, root = f"{type(self).__name__}-{split}", self._folder()
        folder = cache_folder(root, self.cache_dir)
        how = self._find_white(folder)
        images, unreadable = decode_all(listing.files, root, how, folder, name, self.max_unreadable, self.in_memory_mb)
        table = ImageTable(images, listing.attributes, listing.ids)
        if not unreadable:
            return table
        rank_zero_warn(f"{name}: skipped {some(list(unreadable.values()), 'unreadable images')}")
        return table.subset(np.setdiff1d(np.arange(len(table)), list(unreadable)))


def some(names: list[str], what: str) -> str:
    """Return a count and the first names: `3 unreadable images (a, b, c)`."""
    return f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def by_split(listing: Listing, split: list[str]) -> dict[str, Listing]:
    """Cut a listing into its three splits."""
    return {name: listing.take(np.flatnonzero(np.array(split) == name)) for name in SPLITS}
