"""Find the row of a table that belongs to each image."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.decode import EXTENSIONS
from patronus_pl.data.table import NAMELESS, Table
from patronus_pl.errors import AttributeTableError

NUMBER = re.compile(r"[0-9]+")
Found = dict[int, list[int]]
"""Image → the rows that name it."""


def path_of(value: str) -> str:
    """Return a path in one spelling: `/` between folders, no `./` in front, one Unicode form.

    >>> path_of(".\\\\a\\\\7.png")
    'a/7.png'
    """
    parts = unicodedata.normalize("NFC", value).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _stem(path: str) -> str:
    suffix = PurePosixPath(path).suffix
    return path.removesuffix(suffix) if suffix.lower() in EXTENSIONS else path


def _ends(path: str) -> list[str]:
    """Return the ends of a path, the longest first: a/b/c, b/c, c."""
    parts = path.split("/")
    return ["/".join(parts[k:]) for k in range(len(parts))]


class ImageNames:
    """The names of images, in the order in which rows of tables are looked up among them.

    Args:
        ids: paths of n images from the root, with `/`, or names without suffix.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self.paths = [path_of(name) for name in ids]
        self.named: dict[str, list[int]] = defaultdict(list)
        self.numbered: dict[int, list[int]] = defaultdict(list)
        for image, path in enumerate(self.paths):
            for name in {path, _stem(path)}:
                self.named[name].append(image)
            stem = _stem(PurePosixPath(path).name)
            if NUMBER.fullmatch(stem):
                self.numbered[int(stem)].append(image)

    def rows(self, values: Sequence[str]) -> Found:
        """Return the rows that name each image.

        Rows are matched by path; if none is, by path without the suffix of the value; if none is, after removing the
        folders that all values and all images share. What is left is matched by number, for numbers may have lost their
        leading zeros.
        """
        values = [path_of(value) for value in values]
        found = self._by_text(values)
        used = {row for rows in found.values() for row in rows}
        left = [row for row in range(len(values)) if row not in used]
        for image, rows in self._by_number([values[row] for row in left]).items():
            found.setdefault(image, []).extend(left[row] for row in rows)
        return found

    def count_by_path(self, values: Sequence[str]) -> int:
        """Return how many images a column names by their paths."""
        return len(self._by_text([path_of(value) for value in dict.fromkeys(values) if value]))

    def count_by_number(self, values: Sequence[str]) -> int:
        """Return how many images a column names by their numbers; 0 unless all values differ and most name images."""
        found = len(self._by_number([path_of(value) for value in values]))
        return found if 2 * found >= len(values) else 0

    def _by_text(self, values: Sequence[str]) -> Found:
        found = self._by_path(values) or self._by_path([_stem(value) for value in values])
        return found or self._from_another_folder(values)

    def _by_path(self, values: Sequence[str]) -> Found:
        """Match where value and path are equal, or where one is the end of the other; the longest end counts."""
        found: Found = defaultdict(list)
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, value in enumerate(values):
            rows_of[value].append(row)
            for end in _ends(value):
                if end in self.named:
                    for image in self.named[end]:
                        found[image].append(row)
                    break
        for image, path in enumerate(self.paths):
            for end in _ends(path)[1:] if image not in found else ():
                if rows := rows_of.get(end) or rows_of.get(_stem(end)):
                    found[image] = list(rows)
                    break
        return dict(found)

    def _from_another_folder(self, values: Sequence[str]) -> Found:
        shorter, paths = _without_common_folders(values), _without_common_folders(self.paths)
        return {} if paths == self.paths else ImageNames(paths)._by_path(shorter)

    def _by_number(self, values: Sequence[str]) -> Found:
        numbers = [value.removesuffix(".0") for value in values]
        if len(set(numbers)) < len(numbers) or not all(NUMBER.fullmatch(number) for number in numbers):
            return {}  # labels or names
        found: Found = defaultdict(list)
        for row, number in enumerate(numbers):
            for image in self.numbered.get(int(number), ()):
                found[image].append(row)
        return dict(found)


def _without_common_folders(paths: Sequence[str]) -> list[str]:
    folders = [path.split("/")[:-1] for path in paths]
    low, high = min(folders, default=[]), max(folders, default=[])
    common = next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return ["/".join(path.split("/")[common:]) for path in paths]


def id_column_of(table: Table, names: ImageNames) -> str:
    """Return the column that names the images: by path if any does, else by number.

    The first column that names most of its images is taken, else the one that names the most. Columns without a name
    come last, since they count rows in most tables.
    """
    columns = sorted(table.columns, key=lambda name: NAMELESS.fullmatch(name) is not None)
    for count in (names.count_by_path, names.count_by_number):
        counts: dict[str, int] = {}
        for name in columns:
            counts[name] = count(table.columns[name])
            if 2 * counts[name] > min(len(table.columns[name]), len(names.paths)):
                return name
        if any(counts.values()):
            return max(counts, key=counts.__getitem__)
    return next(iter(columns), "")


def match_rows(table: Table, column: str, ids: Sequence[str], root: object) -> NDArray[np.int64]:
    """Return the row of the table for each image, -1 where there is none.

    Args:
        table: the table.
        column: its column of image names, see `ImageNames.rows`.
        ids: the names of n images.
        root: the folder that they are named from, for messages.

    Raises:
        AttributeTableError: two rows name one image, one row names two, or a row has no name.
    """
    values = table.column(column)
    if "" in values:
        row = table.row_numbers[values.index("")]
        raise AttributeTableError(f"{table.path}: row {row} has no {column!r}; fill it in or remove the row")
    seen: dict[str, int] = {}
    for row, value in enumerate(values):
        first = seen.setdefault(path_of(value), row)
        if first != row:
            raise table.repeated(column, values[first], first, row)
    rows, image_of = np.full(len(ids), -1), dict[int, int]()
    for image, (row, *others) in sorted(ImageNames(ids).rows(values).items()):
        if others:
            raise table.repeated(column, values[row], row, others[0])
        if row in image_of:
            both = f"{ids[image_of[row]]} and {ids[image]}"
            raise AttributeTableError(
                f"{table.path}: {values[row]!r} names both {both}; write paths from {root} instead"
            )
        image_of[row], rows[image] = image, row
    return rows
