"""`FFHQ`: 70,000 faces (Karras, Laine & Aila, CVPR 2019; CC BY-NC-SA 4.0)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.files import ImageFiles, Listing, by_split
from patronus_pl.data.roots import found_in
from patronus_pl.data.scan import name_below, scan
from patronus_pl.data.table import Table
from patronus_pl.data.table_files import read_table, records_to_columns
from patronus_pl.data.table_match import match_rows
from patronus_pl.errors import AttributeTableError, CorruptFileError, DatasetNotFoundError

AGE_GROUPS = ("0-2", "3-6", "7-9", "10-14", "15-19", "20-29", "30-39", "40-49", "50-69", "70-120")
KINDS = {"Male": "global", "Eyeglasses": "local", "Sunglasses": "local"}
KINDS |= {f"Age_{group}": "global" for group in AGE_GROUPS}
IDS = ("image_number", "image", "id", "filename")

SEXES = {"male": (1.0,), "female": (0.0,)}
GLASSES = {
    "none": (0.0, 0.0),
    "noglasses": (0.0, 0.0),
    "normal": (1.0, 0.0),
    "readingglasses": (1.0, 0.0),
    "swimminggoggles": (1.0, 0.0),
    "dark": (1.0, 1.0),
    "sunglasses": (1.0, 1.0),
}


def _age_group(age: str) -> tuple[float, ...]:
    """Return an age group, or the group of an age in years, one-hot."""
    starts = [int(group.split("-")[0]) for group in AGE_GROUPS]
    index = AGE_GROUPS.index(age) if age in AGE_GROUPS else sum(float(age) >= start for start in starts) - 1
    return tuple(float(i == index) for i in range(len(AGE_GROUPS)))


COLUMNS: dict[str, tuple[tuple[str, ...], Callable[[str], tuple[float, ...]]]] = {
    "gender": (("Male",), SEXES.__getitem__),
    "glasses": (("Eyeglasses", "Sunglasses"), GLASSES.__getitem__),
    "age_group": (tuple(f"Age_{group}" for group in AGE_GROUPS), _age_group),
    "age": (tuple(f"Age_{group}" for group in AGE_GROUPS), _age_group),
}
"""Column of a table → the attributes that it gives, and the meaning of its values."""


class FFHQ(ImageFiles):
    """Faces, flat in a folder or in folders of a thousand, and attributes if a table is given.

    These tables are understood: the CSV of FFHQ-Aging (Or-El et al., ECCV 2020: image_number, age_group, gender,
    glasses), JSON records with the same fields, and the folder `json/` of the FFHQ Features Dataset (one file per
    image, with gender, age and glasses). Image 7 of a table is `00007.png` or `00007.jpg`. An image without a row is
    kept; its attributes are unknown. Further arguments are those of `ImageFiles`.

    Args:
        root: folder of the images, such as `thumbnails128x128` or `images1024x1024`.
        image_size: height and width in pixels.
        attributes_file: the table, absolute or from `root`.
        val_fraction: share of images that validate.
        test_fraction: share of images that test.

    Raises:
        DatasetNotFoundError: no folder, no images or no table.
        AttributeTableError: two images of one number, or a table with none of gender, age and glasses, or with values
            that mean nothing.
    """

    remedy = "set data.root to a folder of its PNG or JPEG images (https://github.com/NVlabs/ffhq-dataset)"

    def __init__(
        self,
        root: str,
        image_size: int = 64,
        attributes_file: str | None = None,
        val_fraction: float = 0.05,
        test_fraction: float = 0.15,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size, channels=3, **kwargs)
        self.attributes_file, self.val_fraction, self.test_fraction = attributes_file, val_fraction, test_fraction

    def list_splits(self, root: Path) -> dict[str, Listing]:
        """Find the images, match the table, and split by share."""
        files = scan(root).images
        if not files:
            raise DatasetNotFoundError(f"FFHQ: no images below {root} (it holds {found_in(root)}); {self.remedy}")
        ids = [Path(name_below(root, path)).stem for path in files]
        if len(set(ids)) < len(ids):
            first, second = _twins(files)
            raise AttributeTableError(
                f"FFHQ: {first} and {second} are one image; point data.root to one of the folders"
            )
        attributes = np.empty((len(ids), 0), np.float32)
        if self.attributes_file is not None:
            attributes = self._attributes(_read(root / Path(self.attributes_file).expanduser()), ids)
        splits = self.draw_splits(ids, self.val_fraction, self.test_fraction)
        return by_split(Listing(files, attributes, ids), splits)

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the images, the split included."""
        shares = {"val_fraction": self.val_fraction, "test_fraction": self.test_fraction}
        return {**super().describe(), **shares, "split_by": self.split_by}

    def _attributes(self, table: Table, ids: list[str]) -> NDArray[np.float32]:
        """Return the columns of the table that are understood, (n, a) in the order of `ids`."""
        column = next((name for name in IDS if name in table.columns), IDS[0])
        rows = match_rows(table, column, ids, self.root)
        if (rows < 0).all():
            raise AttributeTableError(f"{table.path}: no {column} names an image (as {ids[0]!r})")
        known = _interpret(table)
        self.attribute_names = tuple(known)
        self.attribute_kind = tuple(KINDS[name] for name in known)
        values: NDArray[np.float32] = np.stack(list(known.values()), axis=1)[rows]
        values[rows < 0] = np.nan
        return values


def _twins(files: list[Path]) -> tuple[Path, Path]:
    seen: dict[str, Path] = {}
    for path in files:
        if path.stem in seen:
            return seen[path.stem], path
        seen[path.stem] = path
    raise AssertionError("no two files share a stem")


def _read(path: Path) -> Table:
    """Read a table file, or a folder with one JSON file per image."""
    if not path.is_dir():
        return read_table(path)
    records = []
    for file in sorted(path.glob("*.json")):
        try:
            faces = json.loads(file.read_text())
            face = faces[0]["faceAttributes"] if faces else {}
            records.append({"image": file.stem, **{name: face.get(name) for name in ("gender", "age", "glasses")}})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptFileError(f"{file} is no description of a face ({error!r}); fetch it again") from error
    return Table(path, records_to_columns(path, records))


def _interpret(table: Table) -> dict[str, NDArray[np.float32]]:
    """Return attribute → (n,) of 0, 1 or NaN, for the columns that are understood."""
    known: dict[str, NDArray[np.float32]] = {}
    for column, (names, meaning) in COLUMNS.items():
        if column in table.columns:
            known |= zip(names, _look_up(table, column, meaning, len(names)).T, strict=True)
    if not known:
        raise AttributeTableError(
            f"{table.path} has none of the columns {', '.join(COLUMNS)}; it has {', '.join(table.columns)}"
        )
    return known


def _look_up(table: Table, column: str, meaning: Callable[[str], tuple[float, ...]], width: int) -> NDArray[np.float32]:
    """Return (n, width) for a column of words; NaN where blank."""
    values = table.column(column)
    known: dict[str, tuple[float, ...]] = {"": (np.nan,) * width}
    for value in filter(None, dict.fromkeys(values)):
        try:
            known[value] = meaning(value.lower())
        except (KeyError, ValueError) as error:
            row = table.row_numbers[values.index(value)]
            raise AttributeTableError(f"{table.path}: {column} is {value!r} in row {row}; mend or blank it") from error
    return np.array([known[value] for value in values], np.float32).reshape(-1, width)
