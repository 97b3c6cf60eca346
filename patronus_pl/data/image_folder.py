"""`ImageFolder`: your own images, with or without a table of attributes."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from patronus_pl.data.base import SPLITS
from patronus_pl.data.files import ImageFiles, Listing, by_split, some
from patronus_pl.data.roots import found_in
from patronus_pl.data.scan import name_below, scan
from patronus_pl.data.splits import SPLIT_WORDS, split_by_folder
from patronus_pl.data.table import Table
from patronus_pl.data.table_files import read_table
from patronus_pl.data.table_match import ImageNames, id_column_of, match_rows
from patronus_pl.errors import AttributeTableError, DatasetNotFoundError, InvalidOptionError


class ImageFolder(ImageFiles):
    """All images below a folder, at any depth and of any size, grey or RGB, turned as their EXIF says.

    Folders called train, val and test decide the split of the images below them; what they leave out is drawn from the
    training images. A table (CSV, TSV, Parquet or JSON records) may name attributes and splits. Its rows are matched to
    images by path, file name, or file name without suffix. Images without a row and rows without an image are skipped
    with a warning; files that are no images are skipped and logged. Further arguments are those of `ImageFiles`.

    Args:
        root: the folder.
        image_size: height and width in pixels.
        crop: `center` cuts the largest central square; `none` squashes the whole image into a square.
        attributes_file: the table, absolute or from `root`.
        id_column: its column of image names; None for the column whose values name images.
        attributes: what to read of it: columns of 0/1 or -1/1, `column=value`, `column>number`; None for every column
            that is not named here for ids, splits and groups.
        split_column: column that says train, val or test.
        group_column: column (a patient) whose images all go to the same random split.
        val_fraction: share of images, or of groups, that validate.
        test_fraction: share of images, or of groups, that test.

    Raises:
        DatasetNotFoundError: no folder, no images, or no table.
        AttributeTableError: a missing column, a repeated id, or a value that is no attribute.
        InvalidOptionError: options that exclude each other.
    """

    remedy = "set data.root to a folder of images"

    def __init__(
        self,
        root: str,
        image_size: int = 64,
        crop: Literal["center", "none"] = "center",
        attributes_file: str | None = None,
        id_column: str | None = None,
        attributes: list[str] | None = None,
        split_column: str | None = None,
        group_column: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size, crop=crop, **kwargs)
        self.attributes_file, self.id_column, self.attributes = attributes_file, id_column, attributes
        self.split_column, self.group_column = split_column, group_column
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        if attributes_file is None and (attributes or split_column or group_column or id_column):
            raise InvalidOptionError("data.attributes and the columns need data.attributes_file; set it or drop them")
        if split_column and group_column:
            raise InvalidOptionError("data.split_column and data.group_column exclude each other; keep one")

    def list_splits(self, root: Path) -> dict[str, Listing]:
        """Find the images, match the table, and split."""
        files, others, broken = scan(root)
        table = None if self.attributes_file is None else read_table(root / Path(self.attributes_file).expanduser())
        if not files:
            raise DatasetNotFoundError(
                f"ImageFolder: no images below {root} (it holds {found_in(root)}); {self.remedy}"
            )
        others = [path for path in others if table is None or path.resolve() != table.path.resolve()]
        if others:
            names = [name_below(root, path) for path in others]
            rank_zero_info(f"ImageFolder {root}: skipped {some(names, 'files that are no images')}")
        if broken:
            names = [name_below(root, path) for path in broken]
            self._warn_skipped(some(names, "links to files that do not exist"))
        ids = [name_below(root, path) for path in files]
        if table is None:
            listing = Listing(files, np.empty((len(files), 0), np.float32), ids)
            return by_split(listing, self._split(ids, ids))
        column = self.id_column or id_column_of(table, ImageNames(ids))
        rows = self._match(table, column, ids)
        matched = np.flatnonzero(rows >= 0)
        listing = Listing(files, self._read(table, column)[rows], ids).take(matched)
        rows = rows[matched]
        if self.split_column is not None:
            return by_split(listing, _split_words(table, self.split_column, rows))
        groups = listing.ids if self.group_column is None else [table.column(self.group_column)[row] for row in rows]
        return by_split(listing, self._split(listing.ids, groups))

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the images, the split included."""
        split = {"split_column": self.split_column, "group_column": self.group_column}
        shares = {"val_fraction": self.val_fraction, "test_fraction": self.test_fraction, "split_by": self.split_by}
        return {**super().describe(), **split, **shares}

    def _warn_skipped(self, what: str) -> None:
        rank_zero_warn(f"ImageFolder {self.root}: skipped {what}")

    def _match(self, table: Table, column: str, ids: list[str]) -> NDArray[np.int64]:
        """Return the row of each image, -1 where there is none, and say what finds no partner."""
        rows = match_rows(table, column, ids, self.root)
        if (rows < 0).all():
            where = f"column {column!r}" if self.id_column else f"any column, such as {column!r}"
            raise AttributeTableError(
                f"{table.path}: no value of {where} (as {next(iter(table.column(column)), '')!r}) names an image "
                f"(as {ids[0]!r}); write paths from {self.root}, or set data.id_column"
            )
        if alone := [ids[image] for image in np.flatnonzero(rows < 0)]:
            self._warn_skipped(some(alone, f"images without a row in {table.path.name}"))
        values = table.column(column)
        if lost := [values[row] for row in np.setdiff1d(np.arange(len(values)), rows)]:
            self._warn_skipped(some(sorted(lost), f"rows of {table.path.name} without an image"))
        return rows

    def _read(self, table: Table, id_column: str) -> NDArray[np.float32]:
        special = {id_column, self.split_column, self.group_column}
        columns = [name for name in table.attribute_columns() if name not in special]
        names = columns if self.attributes is None else self.attributes
        self.attribute_names, self.attribute_kind = tuple(names), ("unknown",) * len(names)
        if not names:
            return np.empty((len(table.column(id_column)), 0), np.float32)
        return np.stack([table.attribute(name) for name in names], axis=1)

    def _split(self, ids: list[str], groups: list[str]) -> list[str]:
        """Split by folders called train, val and test if there are any, and draw what these leave out."""
        named: list[str | None] = split_by_folder(ids) if self.split_by == "hash" else [None] * len(ids)
        if not any(named):
            return self.draw_splits(groups, self.val_fraction, self.test_fraction)
        has = {split for split in named if split}
        said = ", ".join(f"{named.count(split)} {split}" for split in SPLITS if split in has)
        rank_zero_info(f"ImageFolder {self.root}: the folders called {', '.join(sorted(has))} are the splits: {said}")
        free = [row for row, split in enumerate(named) if split in (None, "train")]
        val, test = 0.0 if "val" in has else self.val_fraction, 0.0 if "test" in has else self.test_fraction
        drawn = dict(zip(free, self.draw_splits([groups[row] for row in free], val, test), strict=True))
        return [drawn.get(row) or str(split) for row, split in enumerate(named)]


def _split_words(table: Table, column: str, rows: NDArray[np.int64]) -> list[str]:
    words = [table.column(column)[row].lower() for row in rows]
    for word in words:
        if word not in SPLIT_WORDS:
            raise AttributeTableError(f"{table.path}: column {column!r} holds {word!r}; it must say train, val or test")
    return [SPLIT_WORDS[word] for word in words]
