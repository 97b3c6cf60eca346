import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patronus_pl.data import BiasedSubset, ImageFolder, image_folder
from patronus_pl.data import cache as cache_module
from patronus_pl.data.decode import Preprocessing, decode
from patronus_pl.errors import (
    AttributeTableError,
    CorruptFileError,
    DatasetNotFoundError,
    InvalidOptionError,
)

from .trees import make_image_folder, picture, write_csv

NAMES = ["Striped", "Round"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_image_folder(tmp_path / "mine")
    return tmp_path / "mine"


def folder(root: Path, **options: Any) -> ImageFolder:
    return ImageFolder(
        str(root), image_size=16, **{"attributes_file": "attributes.csv", "attributes": NAMES, **options}
    )


def splits(data: ImageFolder) -> dict[str, list[str]]:
    data.setup()
    return {split: table.ids for split, table in data.tables.items()}


def test_each_image_with_its_attributes(root: Path) -> None:
    data = folder(root, split_by="position")
    names = splits(data)
    assert data.image_shape == (3, 16, 16)
    assert data.attribute_names == tuple(NAMES)
    assert sorted(name for ids in names.values() for name in ids) == sorted(
        path.relative_to(root).as_posix() for path in root.rglob("picture*.*")
    )
    assert [len(ids) for ids in names.values()] == [16, 2, 2]
    for table in data.tables.values():
        for image, attributes, name in zip(table.images, table.attributes, table.ids, strict=True):
            number = int(name[-7:-4])
            assert attributes.tolist() == [number % 2, number % 4 >= 2]
            assert np.array_equal(image, decode(root / name, Preprocessing(16, 3, "center")))


def test_without_a_table(root: Path) -> None:
    data = folder(root, attributes_file=None, attributes=None, channels=1, split_by="position")
    data.setup()
    assert data.image_shape == (1, 16, 16)
    assert data.table("train").attributes.shape == (16, 0)
    assert data.attribute_names == ()


def test_split_by_column(root: Path) -> None:
    numbers = {
        split: sorted(int(name[-7:-4]) for name in ids)
        for split, ids in splits(folder(root, split_column="split")).items()
    }
    assert numbers == {"train": [*range(10)], "val": [*range(10, 15)], "test": [*range(15, 20)]}


@pytest.mark.parametrize("seed", range(5))
def test_a_patient_is_in_one_split(root: Path, seed: int) -> None:
    options = {"group_column": "patient", "val_fraction": 0.3, "test_fraction": 0.2, "seed": seed}
    names = splits(folder(root, **options, split_by="position"))
    patients = {split: {int(name[-7:-4]) // 2 for name in ids} for split, ids in names.items()}
    assert {split: len(found) for split, found in patients.items()} == {"train": 5, "val": 3, "test": 2}
    assert {split: len(ids) for split, ids in names.items()} == {"train": 10, "val": 6, "test": 4}
    assert len(set.union(*patients.values())) == 10


def test_the_seed_decides_the_random_split(root: Path) -> None:
    assert splits(folder(root, seed=1)) == splits(folder(root, seed=1)) != splits(folder(root, seed=2))


def test_rows_may_be_named_by_file_or_stem(root: Path) -> None:
    by_path = folder(root, split_column="split")
    by_path.setup()
    lines = (root / "attributes.csv").read_text().splitlines()
    for name, shorten in (("name", lambda path: Path(path).name), ("stem", lambda path: Path(path).stem)):
        rows = [line.split(",") for line in lines[1:]]
        write_csv(root / f"{name}.csv", lines[0].split(","), [[shorten(row[0]), *row[1:]] for row in rows])
        data = folder(root, attributes_file=f"{name}.csv", split_column="split")
        data.setup()
        for split in ("train", "val", "test"):
            assert np.array_equal(data.table(split).attributes, by_path.table(split).attributes)


def test_conditions_as_attributes(root: Path) -> None:
    data = folder(root, attributes=["age>=30", "patient=patient3"], split_column="split")
    table = data.table("train")
    numbers = [int(name[-7:-4]) for name in table.ids]
    assert table.attributes.tolist() == [[number >= 10, number // 2 == 3] for number in numbers]


def test_reports_what_it_skips(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(image_folder, "rank_zero_info", logged.append)
    picture(0, 20, 20).save(root / "new.png")
    (root / "a" / "picture001.jpg").unlink()
    (root / "notes.txt").touch()
    (root / ".hidden.png").touch()
    with pytest.warns(UserWarning, match="skipped") as warned:
        names = splits(folder(root))
    said = " ".join(str(warning.message) for warning in warned)
    assert "skipped 1 files that are no images (notes.txt)" in logged[0]
    assert "skipped 1 images without a row in attributes.csv (new.png)" in said
    assert "skipped 1 rows of attributes.csv without an image (a/picture001.jpg)" in said
    assert sum(map(len, names.values())) == 19


def test_unreadable_images(root: Path) -> None:
    broken = root / "a" / "picture001.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(CorruptFileError, match=r"ImageFolder-train: 1 of 10 images are unreadable.*picture001.jpg"):
        folder(root, split_column="split").setup()
    data = folder(root, split_column="split", max_unreadable=0.1)
    with pytest.warns(UserWarning, match=r"skipped 1 unreadable images \(.*picture001.jpg"):
        table = data.table("train")
    assert len(table) == 9
    for image, name, attributes in zip(table.images, table.ids, table.attributes, strict=True):
        assert np.array_equal(image, decode(root / name, Preprocessing(16, 3, "center")))
        assert attributes[0] == int(name[-7:-4]) % 2


def test_a_limit_decodes_no_more_than_it_keeps(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(cache_module, "decode", lambda path, how: seen.append(path) or decode(path, how))
    assert len(folder(root, limit=3).table("train")) == 3
    assert len(seen) == 3


def test_every_bias_reads_one_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"split_column": "split", "in_memory_mb": 0}
    folder(root, **options).table("train")
    monkeypatch.setattr(cache_module, "decode", None)
    biased = folder(root, **options, bias=BiasedSubset({"Striped,Round": 1.0})).table("train")
    assert (biased.attributes[:, 0] == biased.attributes[:, 1]).all()
    assert isinstance(biased._stored, np.memmap)
    assert all(int(name[-7:-4]) % 4 in (0, 3) for name in biased.ids)


def test_the_description_tells_what_decides_the_images(root: Path) -> None:
    described = folder(root, group_column="patient").describe()
    assert described == {
        "name": "ImageFolder",
        "image_shape": [3, 16, 16],
        "seed": 0,
        "limit": None,
        "bias": None,
        "crop": "center",
        "split_column": None,
        "group_column": "patient",
        "val_fraction": 0.1,
        "test_fraction": 0.1,
        "split_by": "hash",
    }


def test_a_missing_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"no folder '.*nowhere'; set data.root to a folder of images"):
        ImageFolder(str(tmp_path / "nowhere")).setup()
    (tmp_path / "thesis.pdf").touch()
    with pytest.raises(DatasetNotFoundError, match=r"no images below .* \(it holds thesis.pdf\)"):
        ImageFolder(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attributes": None}, r"column 'split' holds 'train' in row 1; .*name the attributes to read"),
        ({"attributes": ["Square"]}, r"no column 'Square'; it has image, Striped, Round, split, patient, age"),
        ({"id_column": "file"}, r"no column 'file'"),
        ({"id_column": "age"}, r"no value of column 'age' \(as '20'\) names an image \(as 'a/b/picture002.png'\)"),
        ({"split_column": "patient"}, r"column 'patient' holds 'patient1'; it must say train, val or test"),
        ({"group_column": "person"}, r"no column 'person'"),
    ],
)
def test_tables_that_do_not_fit(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AttributeTableError, match=message):
        folder(root, **options).setup()


def test_one_row_for_two_images(root: Path) -> None:
    lines = [line.split(",") for line in (root / "attributes.csv").read_text().splitlines()]
    write_csv(root / "names.csv", lines[0], [[Path(row[0]).name, *row[1:]] for row in lines[1:]])
    shutil.copy(root / "picture000.png", root / "a" / "picture000.png")
    with pytest.raises(AttributeTableError, match=r"'picture000.png' names both a/picture000.png and picture000.png"):
        folder(root, attributes_file="names.csv").setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attributes_file": None}, "need data.attributes_file"),
        ({"split_column": "split", "group_column": "patient"}, "exclude each other"),
        ({"max_unreadable": 1.5}, "max_unreadable is 1.5; it is a share"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0; it is a share"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "of 20 images or groups leave none to train on"),
    ],
)
def test_impossible_options(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        folder(root, **options).setup()


def test_an_empty_split(root: Path) -> None:
    data = folder(root, val_fraction=0.0)
    with pytest.raises(InvalidOptionError, match="the val split of ImageFolder is empty"):
        data.setup()


def test_a_sixteen_bit_picture_that_the_table_names(tmp_path: Path) -> None:
    for i in range(5):
        Image.fromarray(np.full((9, 9), 257 * 40 * (i + 1), np.uint16)).save(tmp_path / f"{i}.png")
    data = ImageFolder(str(tmp_path), image_size=4, channels=1)
    data.setup()
    for table in data.tables.values():
        for image, name in zip(table.images, table.ids, strict=True):
            assert (image == 40 * (int(name[0]) + 1)).all()
