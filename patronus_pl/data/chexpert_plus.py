"""Read CheXpert Plus (Chambon et al., arXiv 2405.19538), whose tables name things otherwise than CheXpert's.

df_chexpert_plus_240401.csv           path_to_image, frontal_lateral, sex, age, and reports
chexbert_labels/impression_fixed.json one record a line: path_to_image and 14 findings of 1, 0, -1 or null
PNG/train/patient00001/study1/…       images, which the tables call .jpg; also below PNG/PNG/
"""

from collections.abc import Sequence
from pathlib import Path

from patronus_pl.data.roots import require_file
from patronus_pl.data.table import Table
from patronus_pl.data.table_files import read_table

TABLES = "df_chexpert_plus_*.csv"
LABELS = "impression_fixed.json"
"""Findings read from the impression, as CheXpert's own are; many reports have no section of findings."""
COLUMNS = {"Path": "path_to_image", "Sex": "sex", "Age": "age", "Frontal/Lateral": "frontal_lateral"}
PLACES = ("PNG/PNG", "PNG", "")


def plus_table(root: Path) -> Path | None:
    """Return the table of a folder that holds CheXpert Plus."""
    return next(iter(sorted(root.glob(TABLES))), None)


def read_plus(path: Path, findings: Sequence[str], remedy: str) -> dict[str, Table]:
    """Return the tables of the splits `train` and `valid` with the columns of CheXpert.

    Images whose report has no labels are left out.

    Args:
        path: the table of images.
        findings: columns to take from the labels.
        remedy: what to do where a file is missing.

    Raises:
        DatasetNotFoundError: the labels are missing.
        AttributeTableError: a missing column, or an image that the labels name twice.
    """
    images = read_table(path)
    places = (path.parent / "chexbert_labels" / LABELS, path.parent / LABELS)
    place = next((place for place in places if place.is_file()), places[0])
    labels = read_table(require_file(place, "CheXpert Plus", remedy))
    row_of = {name: row for row, name in enumerate(labels.unique(COLUMNS["Path"]))}
    names = images.column(COLUMNS["Path"])
    tables = {}
    for split in ("train", "valid"):
        rows = [row for row, name in enumerate(names) if name in row_of and f"{split}/" in name]
        columns = {ours: [images.column(theirs)[row] for row in rows] for ours, theirs in COLUMNS.items()}
        columns |= {finding: [labels.column(finding)[row_of[names[row]]] for row in rows] for finding in findings}
        tables[split] = Table(path, columns, [images.row_numbers[row] for row in rows])
    return tables


def plus_files(root: Path, paths: Sequence[str]) -> list[Path]:
    """Return the files of paths such as `train/patient00001/…`, where the first of them is found."""
    files = [[root / place / Path(path).with_suffix(".png") for path in paths] for place in PLACES]
    return next((found for found in files if found and found[0].is_file()), files[1])
