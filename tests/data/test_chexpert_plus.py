"""CheXpert Plus, rewritten from a tree in CheXpert's layout, gives the same images and attributes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patronus_pl.data import CheXpert
from patronus_pl.errors import AttributeTableError, DatasetNotFoundError

from .trees import make_chexpert, write_csv


def as_plus(official: Path, root: Path, place: str = "PNG") -> None:
    rows, labels = [], []
    for split in ("train", "valid"):
        with (official / f"{split}.csv").open() as lines:
            for row in csv.DictReader(lines):
                path = row["Path"].partition("/")[2]
                file = root / place / Path(path).with_suffix(".png")
                file.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(official / path) as image:
                    image.save(file)
                rows.append(
                    [path, row["Frontal/Lateral"], "A report,\nof two lines", float(row["Age"]), row["Sex"], split]
                )
                findings = {name: float(value) if value else None for name, value in list(row.items())[5:]}
                labels.append({"path_to_image": path, **findings})
    header = ["path_to_image", "frontal_lateral", "report", "age", "sex", "split"]
    write_csv(root / "df_chexpert_plus_240401.csv", header, rows)
    (root / "chexbert_labels").mkdir(exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in reversed(labels))
    (root / "chexbert_labels" / "impression_fixed.json").write_text(text)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    official, plus = tmp_path / "official", tmp_path / "plus"
    official.mkdir()
    plus.mkdir()
    make_chexpert(official)
    as_plus(official, plus)
    return official, plus


@pytest.mark.parametrize("frontal_only", [True, False])
def test_plus_gives_what_chexpert_gives(trees: tuple[Path, Path], frontal_only: bool) -> None:
    options = {"image_size": 32, "val_fraction": 0.25, "frontal_only": frontal_only}
    official, plus = (CheXpert(str(root), **options) for root in trees)
    for split in ("train", "val", "test"):
        ours, theirs = plus.table(split), official.table(split)
        assert ours.ids == theirs.ids
        np.testing.assert_array_equal(ours.attributes, theirs.attributes)
        np.testing.assert_array_equal(ours.images, theirs.images)
    assert plus.attribute_names == official.attribute_names


def test_images_may_lie_in_a_second_folder_of_the_same_name(trees: tuple[Path, Path]) -> None:
    plus = trees[1]
    (plus / "PNG").rename(plus / "inner")
    (plus / "PNG").mkdir()
    (plus / "inner").rename(plus / "PNG" / "PNG")
    assert len(CheXpert(str(plus), image_size=32).table("test")) == 8


def test_images_without_labels_are_left_out(trees: tuple[Path, Path]) -> None:
    path = trees[1] / "chexbert_labels" / "impression_fixed.json"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "patient64542/study1/view1" not in line))
    assert len(CheXpert(str(trees[1]), image_size=32).table("test")) == 7


def test_missing_labels_and_columns_are_named(trees: tuple[Path, Path]) -> None:
    table = trees[1] / "df_chexpert_plus_240401.csv"
    table.write_text(table.read_text().replace("sex", "gender", 1))
    with pytest.raises(AttributeTableError, match=r"240401.csv has no column 'sex'; it has path_to_image"):
        CheXpert(str(trees[1])).setup()
    (trees[1] / "chexbert_labels" / "impression_fixed.json").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"CheXpert Plus: no file impression_fixed\.json"):
        CheXpert(str(trees[1])).setup()
