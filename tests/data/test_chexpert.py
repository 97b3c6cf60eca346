import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patronus_pl.data import CheXpert
from patronus_pl.data.decode import Preprocessing, decode
from patronus_pl.errors import AttributeTableError, DatasetNotFoundError

from .trees import make_chexpert, write_csv

Rows = dict[str, list[list[Any]]]


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return make_chexpert(tmp_path)


def chexpert(root: Path, **options: Any) -> CheXpert:
    return CheXpert(str(root), image_size=32, **{"val_fraction": 0.25, **options})


def test_patients_are_split(tmp_path: Path, rows: Rows) -> None:
    data = chexpert(tmp_path, split_by="position")
    data.setup()
    patients = {s: {re.findall(r"patient\d+", name)[0] for name in table.ids} for s, table in data.tables.items()}
    assert {split: len(found) for split, found in patients.items()} == {"train": 9, "val": 3, "test": 4}
    assert len(set.union(*patients.values())) == 16
    assert [len(data.table(split)) for split in ("train", "val", "test")] == [18, 6, 8]  # two frontal views each
    assert all("frontal" in name for table in data.tables.values() for name in table.ids)
    assert all(name.startswith("valid/") for name in data.table("test").ids)


def test_pixels_and_default_shape(tmp_path: Path, rows: Rows) -> None:
    assert CheXpert(str(tmp_path)).image_shape == (1, 224, 224)
    table = chexpert(tmp_path).table("test")
    assert np.array_equal(table.images[1], decode(tmp_path / table.ids[1], Preprocessing(32, 1, "none")))


def test_lateral_views_on_request(tmp_path: Path, rows: Rows) -> None:
    assert len(chexpert(tmp_path, frontal_only=False).table("test")) == 12


@pytest.mark.parametrize(("policy", "uncertain"), [("ones", 1), ("zeros", 0), ("ignore", np.nan)])
def test_findings(tmp_path: Path, rows: Rows, policy: str, uncertain: float) -> None:
    data = chexpert(tmp_path, uncertain=policy, frontal_only=False)
    meaning = {"1.0": 1.0, "0.0": 0.0, "": 0.0, "-1.0": uncertain}
    expected = [[meaning[value] for value in row[5:]] for row in rows["valid"]]
    np.testing.assert_array_equal(data.table("test").attributes[:, :14], expected)
    assert data.attribute_names[13] == "Support Devices"
    assert data.describe()["uncertain"] == policy


def test_sex_and_age(tmp_path: Path, rows: Rows) -> None:
    (tmp_path / "valid.csv").write_text((tmp_path / "valid.csv").read_text().replace(",Female,", ",Unknown,", 1))
    data = chexpert(tmp_path, age_threshold=62, frontal_only=False)
    table = data.table("test")
    values = dict(zip(data.attribute_names, table.attributes.T, strict=True))
    sexes = np.array([float(row[1] == "Male") for row in rows["valid"]])
    sexes[[row[1] for row in rows["valid"]].index("Female")] = np.nan
    np.testing.assert_array_equal(values["Male"], sexes)
    assert values["Age_over_62"].tolist() == [row[2] > 62 for row in rows["valid"]]
    kinds = dict(zip(data.attribute_names, data.attribute_kind, strict=True))
    assert (kinds["Male"], kinds["Age_over_62"], kinds["Edema"]) == ("global", "global", "local")


def test_extra_attributes(tmp_path: Path, rows: Rows) -> None:
    listed = [row[0] for row in rows["valid"]][:5]
    write_csv(tmp_path / "pacemaker.csv", ["Path", "Pacemaker"], [[path, i % 2] for i, path in enumerate(listed)])
    data = chexpert(tmp_path, extra_attributes_file="pacemaker.csv", frontal_only=False)
    np.testing.assert_array_equal(data.table("test").attributes[:, -1], [0, 1, 0, 1, 0] + [np.nan] * 7)
    assert data.attribute_names[-1] == "Pacemaker"
    assert np.isnan(data.table("train").attributes[:, -1]).all()


@pytest.mark.parametrize("name", ["train.csv", "valid.csv"])
def test_missing_tables_are_named(tmp_path: Path, rows: Rows, name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"CheXpert: no file {name} \(.*holds train, .*stanfordmlgroup"):
        chexpert(tmp_path).setup()


def test_missing_images_are_named(tmp_path: Path, rows: Rows) -> None:
    next((tmp_path / "valid" / "patient64542").rglob("*frontal.jpg")).unlink()
    with pytest.raises(DatasetNotFoundError, match=r"CheXpert-test: 1 of 8 images are missing, first .*patient64542"):
        chexpert(tmp_path).setup("test")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Edema", "Oedema", r"train.csv has no column 'Edema'; it has Path, Sex"),
        ("Frontal/Lateral", "View", r"no column 'Frontal/Lateral'"),
        ("study2", "study1", r"Path '.*view1_frontal.jpg' is in row 1 and in row 3"),
        ("patient00001", "person00001", r"no patient in the path 'train/person00001"),
        (",41,", ",young,", r"column 'Age' holds 'young' in row 1"),
        (",1.0,", ",2.0,", r"is 2.0 in row 1; a finding is 1 \(present\), 0 \(absent\), -1 \(uncertain\) or blank"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, rows: Rows, old: str, new: str, message: str) -> None:
    path = tmp_path / "train.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(AttributeTableError, match=message):
        chexpert(tmp_path).setup("fit")
