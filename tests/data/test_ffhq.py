from pathlib import Path

import numpy as np
import pytest

from patronus_pl.data import FFHQ
from patronus_pl.data.decode import Preprocessing, decode
from patronus_pl.errors import AttributeTableError, CorruptFileError, DatasetNotFoundError

from .trees import AGING_HEADER, FACES, make_ffhq, make_ffhq_features, write_csv


@pytest.mark.parametrize(("thousands", "suffix"), [(True, ".png"), (False, ".png"), (False, ".jpg")])
def test_layouts(tmp_path: Path, thousands: bool, suffix: str) -> None:
    make_ffhq(tmp_path, thousands=thousands, suffix=suffix)
    data = FFHQ(str(tmp_path), split_by="position")
    data.setup()
    assert data.image_shape == (3, 64, 64)
    assert [len(data.table(split)) for split in ("train", "val", "test")] == [16, 1, 3]
    assert data.table("train").attributes.shape == (16, 0)
    names = [name for table in data.tables.values() for name in table.ids]
    assert sorted(names) == [f"{i:05d}" for i in range(20)]
    name = data.table("train").ids[0]
    path = tmp_path / ("00000" if thousands else ".") / f"{name}{suffix}"
    assert np.array_equal(data.table("train").images[0], decode(path, Preprocessing(64, 3, "none")))


def test_the_aging_table(tmp_path: Path) -> None:
    make_ffhq(tmp_path)
    data = FFHQ(str(tmp_path), attributes_file="ffhq_aging_labels.csv")
    for name, values in zip(data.table("train").ids, data.table("train").attributes, strict=True):
        age, sex, glasses = FACES[int(name) % 4]
        expected = {"Male": sex == "male", "Eyeglasses": glasses != "None", "Sunglasses": glasses == "Dark"}
        found = dict(zip(data.attribute_names, values, strict=True))
        assert {key: found[key] for key in expected} == expected
        assert {key for key, value in found.items() if key.startswith("Age_") and value} == {f"Age_{age}"}
    assert data.attribute_kind[:3] == ("global", "local", "local")


def test_records_in_json_say_the_same(tmp_path: Path) -> None:
    make_ffhq(tmp_path)
    rows = [f'{{"image": "{i:05d}.png", "gender": "{FACES[i % 4][1]}"}}' for i in range(20)]
    (tmp_path / "faces.json").write_text(f"[{','.join(rows)}]")
    data = FFHQ(str(tmp_path), attributes_file="faces.json")
    assert data.table("train").attributes.ravel().tolist() == [
        FACES[int(name) % 4][1] == "male" for name in data.table("train").ids
    ]
    assert data.attribute_names == ("Male",)


def test_the_features_folder(tmp_path: Path) -> None:
    make_ffhq(tmp_path / "images", count=20)
    make_ffhq_features(tmp_path / "json", count=16)
    data = FFHQ(str(tmp_path / "images"), attributes_file=str(tmp_path / "json"))
    data.setup()
    rows = {
        name: values for table in data.tables.values() for name, values in zip(table.ids, table.attributes, strict=True)
    }
    column = data.attribute_names.index
    assert np.isnan(rows["00000"]).all()  # no face was found in it
    assert np.isnan(rows["00017"]).all()  # no file
    assert rows["00003"][[column("Male"), column("Sunglasses"), column("Age_15-19")]].tolist() == [0, 1, 1]
    assert rows["00014"][[column("Male"), column("Eyeglasses"), column("Age_70-120")]].tolist() == [1, 0, 1]


def test_splits_do_not_depend_on_the_table(tmp_path: Path) -> None:
    make_ffhq(tmp_path)
    with_table, without = FFHQ(str(tmp_path), attributes_file="ffhq_aging_labels.csv"), FFHQ(str(tmp_path))
    assert with_table.table("val").ids == without.table("val").ids
    assert FFHQ(str(tmp_path), seed=5).table("test").ids != without.table("test").ids


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"no folder.*github.com/NVlabs/ffhq-dataset"):
        FFHQ(str(tmp_path / "nowhere")).setup()
    (tmp_path / "LICENSE.txt").touch()
    with pytest.raises(DatasetNotFoundError, match=r"no images below .* \(it holds LICENSE.txt\)"):
        FFHQ(str(tmp_path)).setup()
    make_ffhq(tmp_path / "thumbnails128x128", count=4)
    with pytest.raises(DatasetNotFoundError, match=r"no table .*labels.csv"):
        FFHQ(str(tmp_path), attributes_file="labels.csv").setup()
    make_ffhq(tmp_path / "images1024x1024", count=4)
    with pytest.raises(
        AttributeTableError, match=r"images1024x1024/00000/00000.png and .* are one image; point data.root"
    ):
        FFHQ(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (AGING_HEADER, [0, "20-29", 1, "woman", 1, "None"], "gender is 'woman' in row 1"),
        (AGING_HEADER, [0, "adult", 1, "male", 1, "None"], "age_group is 'adult' in row 1"),
        (AGING_HEADER, [0, "20-29", 1, "male", 1, "Monocle"], "glasses is 'Monocle' in row 1"),
        (AGING_HEADER, [99, "20-29", 1, "male", 1, "None"], "no image_number names an image"),
        (
            ["image_number", "smile"],
            [0, 1],
            "none of the columns gender, glasses, age_group, age; it has image_number, smile",
        ),
        (["face", "gender"], [0, "male"], "no column 'image_number'; it has face, gender"),
    ],
)
def test_tables_that_mean_nothing(tmp_path: Path, header: list[str], row: list[object], message: str) -> None:
    make_ffhq(tmp_path)
    write_csv(tmp_path / "faces.csv", header, [row])
    with pytest.raises(AttributeTableError, match=message):
        FFHQ(str(tmp_path), attributes_file="faces.csv").setup()


def test_repeated_and_broken_rows(tmp_path: Path) -> None:
    make_ffhq(tmp_path)
    write_csv(tmp_path / "faces.csv", ["image", "gender"], [["7", "male"], ["7", "female"]])
    with pytest.raises(AttributeTableError, match="image '7' is in row 1 and in row 2"):
        FFHQ(str(tmp_path), attributes_file="faces.csv").setup()
    make_ffhq_features(tmp_path / "json")
    (tmp_path / "json" / "00004.json").write_text('[{"faceId": 1}]')
    with pytest.raises(CorruptFileError, match=r"00004.json is no description of a face"):
        FFHQ(str(tmp_path), attributes_file="json").setup()
