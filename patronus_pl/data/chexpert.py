"""`CheXpert`: 224,316 chest X-rays with 14 findings (Irvin et al., AAAI 2019; research use agreement)."""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.chexpert_plus import plus_files, plus_table, read_plus
from patronus_pl.data.files import ImageFiles, Listing, by_split
from patronus_pl.data.roots import require_file
from patronus_pl.data.table import UNKNOWN, Table
from patronus_pl.data.table_files import read_table
from patronus_pl.data.table_match import path_of
from patronus_pl.errors import AttributeTableError, InvalidOptionError

FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
GLOBAL = ("No Finding", "Male")
UNCERTAIN = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}
SEX = {"male": 1.0, "m": 1.0, "female": 0.0, "f": 0.0, "unknown": np.nan, **dict.fromkeys(UNKNOWN, np.nan)}
BATCHES = "CheXpert-v1.0 batch *"
"""Folders into which the full-size archive is cut: (validate & csv), (train 1), (train 2), (train 3)."""


class CheXpert(ImageFiles):
    """Chest X-rays, 224×224 grey, with findings, sex and age as attributes.

    `valid.csv`, which radiologists labelled, is the test split; patients drawn from `train.csv` validate. A finding
    that the report does not mention (blank) counts as absent; one that it calls uncertain (-1) is read by `uncertain`.
    The small version, the full-size one in one folder or in its batches, CheXpert Plus with its PNG files and the
    labels of its impressions, and paths from any root are read. Further arguments are those of `ImageFiles`; `seed`
    decides which patients validate.

    Args:
        root: folder with `train.csv`, `valid.csv`, `train/` and `valid/`, such as `CheXpert-v1.0-small`.
        image_size: height and width in pixels.
        uncertain: -1 becomes 1 (`ones`), 0 (`zeros`) or unknown (`ignore`).
        frontal_only: drop lateral views.
        age_threshold: patients older than this, in years, have the attribute `Age_over_<threshold>`.
        extra_attributes_file: a table with `Path` and columns of 0/1 (a pacemaker), absolute or from `root`; unknown
            for images that it does not list.
        val_fraction: share of the patients of `train.csv` that validate.

    Raises:
        DatasetNotFoundError: the folder, a table, or images are missing.
        AttributeTableError: a missing column, a repeated path, a path without a patient, or an impossible value.
    """

    remedy = (
        "set data.root to the folder that holds train.csv and valid.csv "
        "(https://stanfordmlgroup.github.io/competitions/chexpert)"
    )

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        uncertain: Literal["ones", "zeros", "ignore"] = "ignore",
        frontal_only: bool = True,
        age_threshold: int = 60,
        extra_attributes_file: str | None = None,
        val_fraction: float = 0.02,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size, channels=1, **kwargs)
        if uncertain not in UNCERTAIN:
            raise InvalidOptionError(f"data.uncertain is {uncertain!r}; choose one of {', '.join(UNCERTAIN)}")
        self.uncertain, self.frontal_only, self.age_threshold = uncertain, frontal_only, age_threshold
        self.extra_attributes_file, self.val_fraction = extra_attributes_file, val_fraction

    def list_splits(self, root: Path) -> dict[str, Listing]:
        """Read train and validation images, by patient, from `train.csv`, and test images from `valid.csv`."""
        extra = None
        if self.extra_attributes_file is not None:
            extra = read_table(root / Path(self.extra_attributes_file).expanduser())
        train, test = (self._list(root, table, extra) for table in self._tables(root))
        splits = self.draw_splits([_patient(root, path) for path in train.ids], self.val_fraction, 0.0)
        return {**by_split(train, splits), "test": test}

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the images and their attributes."""
        keys = ("uncertain", "frontal_only", "age_threshold", "val_fraction", "split_by")
        return {**super().describe(), **{key: getattr(self, key) for key in keys}}

    def _tables(self, root: Path) -> list[Table]:
        """Return the tables of training and test images, in CheXpert's columns."""
        if (plus := plus_table(root)) is not None and not (root / "train.csv").exists():
            return list(read_plus(plus, FINDINGS, self.remedy).values())
        tables = []
        for name in ("train.csv", "valid.csv"):
            found = [root / name, *sorted(root.glob(f"{BATCHES}/{name}"))]
            path = next((place for place in found if place.is_file()), found[0])
            tables.append(read_table(require_file(path, "CheXpert", self.remedy)))
        return tables

    def _list(self, root: Path, table: Table, extra: Table | None) -> Listing:
        paths = _paths(table)
        known = {finding: self._finding(table, finding) for finding in FINDINGS}
        known["Male"] = _sex(table)
        known[f"Age_over_{self.age_threshold}"] = table.attribute(f"Age>{self.age_threshold}")
        if extra is not None:
            known |= _extra(extra, paths)
        self.attribute_names = tuple(known)
        self.attribute_kind = tuple("global" if n in GLOBAL or n.startswith("Age_") else "local" for n in known)
        files = plus_files(root, paths) if table.path == plus_table(root) else _files(root, paths)
        listing = Listing(files, np.stack(list(known.values()), axis=1), paths)
        if not self.frontal_only:
            return listing
        views = np.array(table.column("Frontal/Lateral"), dtype=str)
        return listing.take(np.flatnonzero(views == "Frontal"))

    def _finding(self, table: Table, name: str) -> NDArray[np.float32]:
        values = np.nan_to_num(table.numbers(name), nan=0.0)
        wrong = np.flatnonzero(~np.isin(values, (-1, 0, 1)))
        if len(wrong):
            row = table.row_numbers[wrong[0]]
            raise AttributeTableError(
                f"{table.path}: {name!r} is {table.column(name)[wrong[0]]} in row {row}; a finding is 1 (present), 0 "
                "(absent), -1 (uncertain) or blank (not mentioned)"
            )
        return np.where(values == -1, UNCERTAIN[self.uncertain], values).astype(np.float32)


def _paths(table: Table) -> list[str]:
    """Return the paths from the root: `CheXpert-v1.0-small/train/patient00001/…` → `train/patient00001/…`."""
    paths = [re.sub(r"^.*?(?<![^/])(?=(?:train|valid|test)/)", "", path_of(name)) for name in table.column("Path")]
    seen: dict[str, int] = {}
    for row, path in enumerate(paths):
        first = seen.setdefault(path, row)
        if first != row:
            raise table.repeated("Path", table.column("Path")[first], first, row)
    return paths


def _files(root: Path, paths: list[str]) -> list[Path]:
    """Return the files of paths such as `train/patient00001/…`, which batches hold without `train/`."""
    if not (batches := sorted(path for path in root.glob(BATCHES) if path.is_dir())):
        return [root / path for path in paths]
    place: dict[str, Path] = {}
    for batch in batches:
        split = "valid" if "valid" in batch.name.lower() else "train"
        place |= {f"{split}/{folder.name}": folder for folder in batch.glob("patient*")}
        place |= {
            f"{inner}/{folder.name}": folder for inner in ("train", "valid") for folder in batch.glob(f"{inner}/*")
        }
    files = []
    for path in paths:
        split, patient, *rest = path.split("/") if path.count("/") > 1 else (path, "", "")
        files.append(place.get(f"{split}/{patient}", root / split / patient).joinpath(*rest))
    return files


def _patient(root: Path, path: str) -> str:
    found = re.search(r"patient\d+", path)
    if found is None:
        raise AttributeTableError(f"{root / 'train.csv'}: no patient in the path {path!r}, as in patient00001/study1/…")
    return found.group()


def _sex(table: Table) -> NDArray[np.float32]:
    """Return 1 for male, 0 for female, NaN for unknown; the official table has one `Unknown`."""
    values = table.column("Sex")
    for row, value in enumerate(values):
        if value.lower() not in SEX:
            raise AttributeTableError(
                f"{table.path}: Sex is {value!r} in row {table.row_numbers[row]}; write Male or Female (M or F), or "
                "Unknown"
            )
    return np.array([SEX[value.lower()] for value in values], np.float32)


def _extra(table: Table, paths: list[str]) -> dict[str, NDArray[np.float32]]:
    row_of = {path: row for row, path in enumerate(_paths(table))}
    rows = np.array([row_of.get(path, -1) for path in paths])
    columns = {name: table.attribute(name) for name in table.attribute_columns() if name != "Path"}
    return {name: np.where(rows < 0, np.nan, values[rows]).astype(np.float32) for name, values in columns.items()}
