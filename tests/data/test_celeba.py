from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from patronus_pl.data import BiasedSubset, CelebA
from patronus_pl.errors import AttributeTableError, CorruptFileError, DatasetNotFoundError

from .trees import make_celeba


@pytest.fixture
def attributes(tmp_path: Path) -> np.ndarray[Any, Any]:
    return make_celeba(tmp_path)


def test_the_official_partition(tmp_path: Path, attributes: np.ndarray[Any, Any]) -> None:
    data = CelebA(str(tmp_path))
    data.setup()
    assert data.image_shape == (3, 64, 64)
    assert [len(data.table(split)) for split in ("train", "val", "test")] == [12, 6, 6]
    assert data.table("val").ids == [f"{i:06d}.jpg" for i in range(13, 19)]
    assert np.array_equal(data.table("val").attributes, attributes[12:18] == 1)
    assert len(data.attribute_names) == 40
    assert dict(zip(data.attribute_names, data.attribute_kind, strict=True))["Smiling"] == "local"


@pytest.mark.parametrize(
    ("crop", "steps"), [("none", [Resize((64, 64))]), ("center", [CenterCrop(178), Resize((64, 64))])]
)
def test_both_preprocessings(tmp_path: Path, attributes: object, crop: str, steps: list[Any]) -> None:
    data = CelebA(str(tmp_path), crop=crop)  # type: ignore[arg-type]
    expected = Compose(steps)(Image.open(tmp_path / "img_align_celeba" / "000001.jpg"))
    assert np.array_equal(data.table("train").images[0], np.asarray(expected).transpose(2, 0, 1))
    assert data.describe()["crop"] == crop


def test_a_folder_nested_in_itself(tmp_path: Path, attributes: object) -> None:
    (tmp_path / "img_align_celeba").rename(tmp_path / "inner")
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "inner").rename(tmp_path / "img_align_celeba" / "img_align_celeba")
    assert len(CelebA(str(tmp_path)).table("test")) == 6


def test_the_rule_of_the_paper(tmp_path: Path) -> None:
    table = make_celeba(tmp_path, count=80) == 1
    data = CelebA(str(tmp_path), bias=BiasedSubset(rule="celeba_hair_smile"))
    column = data.attribute_names.index
    black, blond, brown, smile = (table[:40, column(n)] for n in ("Black_Hair", "Blond_Hair", "Brown_Hair", "Smiling"))
    wanted = (black + 0 + blond + brown == 1) & (black != smile)
    assert data.table("train").ids == [f"{i + 1:06d}.jpg" for i in np.flatnonzero(wanted)]


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
def test_missing_lists_are_named(tmp_path: Path, attributes: object, name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"CelebA: no file {name} \(.*holds img_align_celeba, list_.*mmlab"):
        CelebA(str(tmp_path)).setup()


def test_missing_images_are_named(tmp_path: Path, attributes: object) -> None:
    (tmp_path / "img_align_celeba" / "000003.jpg").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"CelebA-train: 1 of 12 images are missing, first .*000003.jpg"):
        CelebA(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("name", "old", "new", "error", "message"),
    [
        ("attr", "Smiling", "Smile", AttributeTableError, "found 40 names, wrong or missing: Smiling"),
        ("attr", "24\n", "25\n", CorruptFileError, "announces '25' images and has 24"),
        ("attr", "000002.jpg -1", "000002.jpg  2", AttributeTableError, "000002.jpg has '2'; each image has 40 values"),
        ("attr", "000002.jpg -1", "000002.jpg", AttributeTableError, "000002.jpg has '39 values'"),
        (
            "attr",
            "000002.jpg",
            "000001.jpg",
            AttributeTableError,
            "name '000001.jpg' is in row 1 and in row 2; remove one",
        ),
        ("part", "000002.jpg 0", "000002.jpg 3", AttributeTableError, "cannot read '000002.jpg 3'"),
        ("part", "000002.jpg 0", "000001.jpg 0", AttributeTableError, "name '000001.jpg' is in row 1 and in row 2"),
        ("part", "000002.jpg 0\n", "", AttributeTableError, "lacks 1 images of list_attr_celeba.txt, first 000002.jpg"),
    ],
)
def test_lists_that_do_not_fit(
    tmp_path: Path, attributes: object, name: str, old: str, new: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / {"attr": "list_attr_celeba.txt", "part": "list_eval_partition.txt"}[name]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(error, match=message):
        CelebA(str(tmp_path)).setup()
