"""`ImageFolder`: your own images, with or without a table of attributes."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from patronus_pl.data.base import found_in
from patronus_pl.data.bias import BiasedSubset
from patronus_pl.data.files import ImageFiles, Listing, by_split, find_images, some, split_randomly
from patronus_pl.data.table import Table, read_table
from patronus_pl.errors import AttributeTableError, DatasetNotFoundError, InvalidOptionError

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


class ImageFolder(ImageFiles):
    """All images below a folder, at any depth and of any size, grey or RGB, turned as their EXIF says.

    A table (CSV, TSV, Parquet or JSON records) may name attributes and splits. Its rows are matched to images by
    relative path, file name, or file name without extension. Images without a row and rows without an image are
    skipped with a warning; files that are no images are skipped and logged.

    Args:
        root: the folder.
        image_size: height and width in pixels.
        batch_size: images a step and device.
        num_workers: loader processes.
        seed: of the random split.
        limit: keep the first n images of each split.
        bias: keep only images that satisfy a `BiasedSubset`.
        channels: 1 (grey) or 3 (RGB).
        crop: `center` cuts the central square, `none` squashes the whole image.
        attributes_file: the table, absolute or from `root`.
        id_column: its column of image names; by default the first.
        attributes: what to read of it: columns of 0/1 or -1/1, `column=value`, `column>number`; by default every column
            but those named here for ids, splits and groups.
        split_column: column that says train, val or test.
        group_column: column (a patient) whose images all go to the same random split.
        val_fraction: share of images, or of groups, that validate.
        test_fraction: share of images, or of groups, that test.
        cache_dir: where decoded images are kept; by default `.patronus_cache` in the root.
        max_unreadable: share of unreadable images that are skipped with a warning; more are an error.
        in_memory_mb: splits up to this size are read into memory.

    Raises:
        DatasetNotFoundError: no folder, no images, or no table.
        AttributeTableError: a missing column, a repeated id, or a value that is no attribute.
        InvalidOptionError: an option that does not fit.
    """

    remedy = "set data.root to a folder of images"

    def __init__(
        self,
        root: str,
        image_size: int = 64,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        limit: int | None = None,
        bias: BiasedSubset | None = None,
        channels: Literal[1, 3] = 3,
        crop: Literal["center", "none"] = "center",
        attributes_file: str | None = None,
        id_column: str | None = None,
        attributes: list[str] | None = None,
        split_column: str | None = None,
        group_column: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        cache_dir: str | None = None,
        max_unreadable: float = 0.001,
        in_memory_mb: int = 1024,
    ) -> None:
        super().__init__(
            root,
            image_size,
            batch_size,
            num_workers,
            seed,
            limit,
            bias,
            channels,
            crop,
            cache_dir,
            max_unreadable,
            in_memory_mb,
        )
        self.attributes_file, self.id_column, self.attributes = attributes_file, id_column, attributes
        self.split_column, self.group_column = split_column, group_column
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        if attributes_file is None and (attributes or split_column or group_column or id_column):
            raise InvalidOptionError("data.attributes and the columns need data.attributes_file; set it or drop them")
        if split_column and group_column:
            raise InvalidOptionError("data.split_column and data.group_column exclude each other; keep one")

    def list_splits(self, root: Path) -> dict[str, Listing]:
        """Find the images, match the table, split."""
        files, others = find_images(root)
        table = None if self.attributes_file is None else read_table(root / Path(self.attributes_file).expanduser())
        others = [path for path in others if table is None or path.resolve() != table.path.resolve()]
        if not files:
            raise DatasetNotFoundError(
                f"ImageFolder: no images below {root} (it holds {found_in(root)}); {self.remedy}"
            )
        if others:
            names = [path.relative_to(root).as_posix() for path in others]
            rank_zero_info(f"ImageFolder {root}: skipped {some(names, 'files that are no images')}")
        ids = [path.relative_to(root).as_posix() for path in files]
        if table is None:
            listing = Listing(files, np.empty((len(files), 0), np.float32), ids)
            return by_split(listing, self._random(ids))
        rows = self._match(table, ids)
        matched = np.flatnonzero(rows >= 0)
        listing = Listing(files, self._read(table)[rows], ids).take(matched)
        return by_split(listing, self._split(table, listing.ids, rows[matched]))

    def describe(self) -> dict[str, Any]:
        """What decides the images, the split among it."""
        split = {"split_column": self.split_column, "group_column": self.group_column}
        return {**super().describe(), **split, "val_fraction": self.val_fraction, "test_fraction": self.test_fraction}

    def _report(self, what: str) -> None:
        rank_zero_warn(f"ImageFolder {self.root}: skipped {what}")

    def _id_column(self, table: Table) -> str:
        return self.id_column or next(iter(table.columns))

    def _match(self, table: Table, ids: list[str]) -> NDArray[np.int64]:
        """Row of the table for each image, -1 where there is none."""
        column = self._id_column(table)
        row_of = {name.removeprefix("./"): row for row, name in enumerate(table.unique(column))}
        keys = [next((key for key in (path, Path(path).name, Path(path).stem) if key in row_of), "") for path in ids]
        twice = [key for key, count in Counter(keys).items() if key and count > 1]
        if twice:
            both = " and ".join([path for path, key in zip(ids, keys, strict=True) if key == twice[0]][:2])
            raise AttributeTableError(
                f"{table.path}: {twice[0]!r} names both {both}; write paths from {self.root} instead"
            )
        if not any(keys):
            raise AttributeTableError(
                f"{table.path}: no value of column {column!r} (as {next(iter(row_of), '')!r}) names an image "
                f"(as {ids[0]!r}); set data.id_column"
            )
        if alone := [path for path, key in zip(ids, keys, strict=True) if not key]:
            self._report(some(alone, f"images without a row in {table.path.name}"))
        if lost := sorted(set(row_of) - set(keys)):
            self._report(some(lost, f"rows of {table.path.name} without an image"))
        return np.array([row_of.get(key, -1) for key in keys])

    def _read(self, table: Table) -> NDArray[np.float32]:
        special = {self._id_column(table), self.split_column, self.group_column}
        names = self.attributes if self.attributes is not None else [n for n in table.columns if n not in special]
        self.attribute_names, self.attribute_kind = tuple(names), ("unknown",) * len(names)
        count = len(table.column(self._id_column(table)))
        columns = [table.attribute(name) for name in names]
        return np.stack(columns, axis=1) if columns else np.empty((count, 0), np.float32)

    def _split(self, table: Table, ids: list[str], rows: NDArray[np.int64]) -> list[str]:
        if self.split_column is None:
            groups = ids if self.group_column is None else [table.column(self.group_column)[row] for row in rows]
            return self._random(groups)
        words = [table.column(self.split_column)[row].lower() for row in rows]
        for word in words:
            if word not in SPLIT_WORDS:
                raise AttributeTableError(
                    f"{table.path}: column {self.split_column!r} holds {word!r}; it must say train, val or test"
                )
        return [SPLIT_WORDS[word] for word in words]

    def _random(self, groups: list[str]) -> list[str]:
        return split_randomly(groups, self.val_fraction, self.test_fraction, self.seed)
