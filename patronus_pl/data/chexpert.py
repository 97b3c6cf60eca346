"""`CheXpert`: 224,316 chest X-rays with 14 findings (Irvin et al., AAAI 2019; research use agreement)."""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.base import require_file
from patronus_pl.data.bias import BiasedSubset
from patronus_pl.data.files import ImageFiles, Listing, by_split, split_randomly
from patronus_pl.data.table import Table, read_table
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
SEX = {"Male": 1.0, "Female": 0.0}


class CheXpert(ImageFiles):
    """Chest X-rays, 224×224 grey, with findings, sex and age as attributes.

    `valid.csv`, which radiologists labelled, is the test split; patients drawn from `train.csv` validate. A finding
    that the report does not mention (blank) counts as absent; one that it calls uncertain (-1) is read by `uncertain`.

    Args:
        root: folder with `train.csv`, `valid.csv`, `train/` and `valid/`, such as `CheXpert-v1.0-small`.
        image_size: height and width in pixels.
        batch_size: images a step and device.
        num_workers: loader processes.
        seed: which patients validate.
        limit: keep the first n images of each split.
        bias: keep only images that satisfy a `BiasedSubset`.
        crop: `none` squashes the whole image, `center` cuts the central square.
        uncertain: -1 becomes 1 (`ones`), 0 (`zeros`) or unknown (`ignore`).
        frontal_only: drop lateral views.
        age_threshold: patients older than this, in years, have the attribute `Age_over_<threshold>`.
        extra_attributes_file: a table with `Path` and columns of 0/1 (a pacemaker), absolute or from `root`; unknown
            for images that it does not list.
        val_fraction: share of the patients of `train.csv` that validate.
        cache_dir: where decoded images are kept; by default `.patronus_cache` in the root.
        max_unreadable: share of unreadable images that are skipped with a warning; more are an error.
        in_memory_mb: splits up to this size are read into memory.

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
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        limit: int | None = None,
        bias: BiasedSubset | None = None,
        crop: Literal["center", "none"] = "none",
        uncertain: Literal["ones", "zeros", "ignore"] = "ignore",
        frontal_only: bool = True,
        age_threshold: int = 60,
        extra_attributes_file: str | None = None,
        val_fraction: float = 0.02,
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
            1,
            crop,
            cache_dir,
            max_unreadable,
            in_memory_mb,
        )
        if uncertain not in UNCERTAIN:
            raise InvalidOptionError(f"data.uncertain is {uncertain!r}; choose one of {', '.join(UNCERTAIN)}")
        self.uncertain, self.frontal_only, self.age_threshold = uncertain, frontal_only, age_threshold
        self.extra_attributes_file, self.val_fraction = extra_attributes_file, val_fraction

    def list_splits(self, root: Path) -> dict[str, Listing]:
        """Train and validation by patient from `train.csv`, test from `valid.csv`."""
        extra = None
        if self.extra_attributes_file is not None:
            extra = read_table(root / Path(self.extra_attributes_file).expanduser())
        train, test = (self._list(root, root / name, extra) for name in ("train.csv", "valid.csv"))
        split = split_randomly([_patient(root, path) for path in train.ids], self.val_fraction, 0.0, self.seed)
        return {**by_split(train, split), "test": test}

    def describe(self) -> dict[str, Any]:
        """What decides the images and what is said of them."""
        keys = ("uncertain", "frontal_only", "age_threshold", "val_fraction")
        return {**super().describe(), **{key: getattr(self, key) for key in keys}}

    def _list(self, root: Path, path: Path, extra: Table | None) -> Listing:
        table = read_table(require_file(path, "CheXpert", self.remedy))
        paths = [_below_root(name) for name in table.unique("Path")]
        known = {name: self._finding(table, name) for name in FINDINGS}
        known["Male"] = _sex(table)
        known[f"Age_over_{self.age_threshold}"] = table.attribute(f"Age>{self.age_threshold}")
        if extra is not None:
            known |= _extra(extra, paths)
        self.attribute_names = tuple(known)
        self.attribute_kind = tuple("global" if n in GLOBAL or n.startswith("Age_") else "local" for n in known)
        listing = Listing([root / name for name in paths], np.stack(list(known.values()), axis=1), paths)
        if not self.frontal_only:
            return listing
        views = np.array(table.column("Frontal/Lateral"), dtype=str)
        return listing.take(np.flatnonzero(views == "Frontal"))

    def _finding(self, table: Table, name: str) -> NDArray[np.float32]:
        values = np.nan_to_num(table.numbers(name), nan=0.0)
        wrong = np.flatnonzero(~np.isin(values, (-1, 0, 1)))
        if len(wrong):
            raise AttributeTableError(
                f"{table.path}: {name!r} is {table.column(name)[wrong[0]]} in row {wrong[0] + 1}; a finding is 1 "
                "(present), 0 (absent), -1 (uncertain) or blank (not mentioned)"
            )
        return np.where(values == -1, UNCERTAIN[self.uncertain], values).astype(np.float32)


def _below_root(path: str) -> str:
    """`CheXpert-v1.0-small/train/patient00001/…` → `train/patient00001/…`."""
    return re.sub(r"^.*?(?<![^/])(?=(?:train|valid|test)/)", "", path)


def _patient(root: Path, path: str) -> str:
    found = re.search(r"patient\d+", path)
    if found is None:
        raise AttributeTableError(f"{root / 'train.csv'}: no patient in the path {path!r}, as in patient00001/study1/…")
    return found.group()


def _sex(table: Table) -> NDArray[np.float32]:
    """1 male, 0 female, NaN otherwise (the official table has one `Unknown`)."""
    return np.array([SEX.get(value, np.nan) for value in table.column("Sex")], np.float32)


def _extra(table: Table, paths: list[str]) -> dict[str, NDArray[np.float32]]:
    row_of = {_below_root(path): row for row, path in enumerate(table.unique("Path"))}
    rows = np.array([row_of.get(path, -1) for path in paths])
    columns = {name: table.attribute(name) for name in table.columns if name != "Path"}
    return {name: np.where(rows < 0, np.nan, values[rows]).astype(np.float32) for name, values in columns.items()}
