"""CelebA and CheXpert as the drive, Kaggle, torchvision and the archives lay them out; caches of other users."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patronus_pl.data import CelebA, CheXpert, ImageFolder
from patronus_pl.data import cache as cache_module
from patronus_pl.data.cache import cache_folder
from patronus_pl.data.decode import Preprocessing, decode
from patronus_pl.errors import AttributeTableError, DatasetNotFoundError

from .trees import CELEBA_HEADER, make_celeba, make_chexpert, make_image_folder, picture, write_csv

COUNT = 30


def as_csv(root: Path) -> None:
    """Write Kaggle's lists in place of the authors'."""
    header = ["image_id", *CELEBA_HEADER.split()]
    lines = (root / "list_attr_celeba.txt").read_text().splitlines()[2:]
    write_csv(root / "list_attr_celeba.csv", header, [line.split() for line in lines])
    lines = (root / "list_eval_partition.txt").read_text().splitlines()
    write_csv(root / "list_eval_partition.csv", ["image_id", "partition"], [line.split() for line in lines])
    for stem in ("list_attr_celeba", "list_eval_partition"):
        (root / f"{stem}.txt").unlink()


def nest(root: Path) -> None:
    (root / "img_align_celeba").rename(root / "inner")
    (root / "img_align_celeba").mkdir()
    (root / "inner").rename(root / "img_align_celeba" / "img_align_celeba")


def move(root: Path, places: dict[str, str]) -> None:
    for name, folder in places.items():
        (root / folder).mkdir(exist_ok=True)
        (root / name).rename(root / folder / name)


@pytest.mark.parametrize("layout", ["kaggle", "drive", "drive-png", "torchvision", "semicolons"])
def test_celeba(tmp_path: Path, layout: str) -> None:
    expected = make_celeba(tmp_path, COUNT) == 1
    listed = dict(CelebA(str(tmp_path)).listings())
    if layout == "kaggle":
        as_csv(tmp_path)
        nest(tmp_path)
    elif layout == "semicolons":
        as_csv(tmp_path)
        for path in tmp_path.glob("*.csv"):
            path.write_text("\ufeff" + path.read_text().replace(",", ";"))
    elif layout == "torchvision":
        (tmp_path / "celeba").mkdir()
        for name in ("img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"):
            (tmp_path / name).rename(tmp_path / "celeba" / name)
    else:
        move(tmp_path, {"list_attr_celeba.txt": "Anno", "list_eval_partition.txt": "Eval", "img_align_celeba": "Img"})
        if layout == "drive-png":
            folder = (tmp_path / "Img" / "img_align_celeba").rename(tmp_path / "Img" / "img_align_celeba_png")
            for i, path in enumerate(sorted(folder.iterdir())):
                path.unlink()
                picture(i, 218, 178).save(path.with_suffix(".png"))
    data = CelebA(str(tmp_path), image_size=8)
    data.setup()
    assert {split: table.ids for split, table in data.tables.items()} == {s: t.ids for s, t in listed.items()}
    for table in data.tables.values():
        numbers = [int(name[:6]) - 1 for name in table.ids]
        assert np.array_equal(table.attributes, expected[numbers])


def test_celeba_that_is_not_unpacked(tmp_path: Path) -> None:
    make_celeba(tmp_path, 4)
    shutil.rmtree(tmp_path / "img_align_celeba")
    (tmp_path / "img_align_celeba.zip").touch()
    with pytest.raises(DatasetNotFoundError, match=r"CelebA: no folder img_align_celeba in .*; unpack .*celeba.zip"):
        CelebA(str(tmp_path)).setup()


# ---- CheXpert --------------------------------------------------------------------------------------------------------


def chexpert(root: Path) -> CheXpert:
    data = CheXpert(str(root), image_size=8, val_fraction=0.25)
    data.setup()
    return data


@pytest.mark.parametrize("spelling", ["CheXpert-v1.0", "data\\\\CheXpert-v1.0-small", "/home/her/chexpert", "batches"])
def test_chexpert(tmp_path: Path, spelling: str) -> None:
    make_chexpert(tmp_path)
    expected = {split: (t.ids, t.images, t.attributes) for split, t in chexpert(tmp_path).tables.items()}
    for name in ("train.csv", "valid.csv"):
        text = (tmp_path / name).read_text()
        new = text.replace("CheXpert-v1.0-small/", "CheXpert-v1.0/" if spelling == "batches" else f"{spelling}/")
        if "\\" in spelling:
            new = "\n".join(line.replace("/patient", "\\patient").replace("/study", "\\study") for line in
                            new.splitlines())  # fmt: skip
        (tmp_path / name).write_text(new)
    if spelling == "batches":
        folders = {"valid": "batch 1 (validate & csv)", "train": "batch 2 (train 1)"}
        for split, batch in folders.items():
            (tmp_path / split).rename(tmp_path / f"CheXpert-v1.0 {batch}")
        (tmp_path / "CheXpert-v1.0 batch 3 (train 2)").mkdir()
        for patient in ("patient00001", "patient00002"):
            (tmp_path / "CheXpert-v1.0 batch 2 (train 1)" / patient).rename(
                tmp_path / "CheXpert-v1.0 batch 3 (train 2)" / patient
            )
        for name in ("train.csv", "valid.csv"):
            (tmp_path / name).rename(tmp_path / "CheXpert-v1.0 batch 1 (validate & csv)" / name)
    for split, table in chexpert(tmp_path).tables.items():
        ids, images, attributes = expected[split]
        assert table.ids == ids
        assert np.array_equal(table.images, images)
        np.testing.assert_array_equal(table.attributes, attributes)


@pytest.mark.parametrize(("male", "female"), [("M", "F"), ("m", "f"), ("MALE", "female")])
def test_sex_in_letters(tmp_path: Path, male: str, female: str) -> None:
    make_chexpert(tmp_path)
    expected = chexpert(tmp_path)
    column = expected.attribute_names.index("Male")
    for name in ("train.csv", "valid.csv"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace(",Male,", f",{male},").replace(",Female,", f",{female},"))
    found = chexpert(tmp_path)
    for split in ("train", "val", "test"):
        assert set(found.table(split).attributes[:, column]) <= {0.0, 1.0}
        assert np.array_equal(found.table(split).attributes[:, column], expected.table(split).attributes[:, column])


def test_a_sex_that_is_neither_known_nor_unknown_is_named(tmp_path: Path) -> None:
    make_chexpert(tmp_path)
    path = tmp_path / "valid.csv"
    path.write_text(path.read_text().replace(",Male,", ",Man,", 1))
    with pytest.raises(AttributeTableError, match=r"valid.csv: Sex is 'Man' in row \d+; write Male or Female"):
        chexpert(tmp_path)


def test_a_path_said_twice_in_two_spellings(tmp_path: Path) -> None:
    make_chexpert(tmp_path)
    path = tmp_path / "valid.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1].replace("CheXpert-v1.0-small/", "")]))
    with pytest.raises(AttributeTableError, match=r"is in row 1 and in row 13 \(as 'valid/patient64541"):
        chexpert(tmp_path)


# ---- shared caches ---------------------------------------------------------------------------------------------------


def nobody_may_write(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))


def test_a_cache_of_another_user_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image_folder(tmp_path / "data")
    first = ImageFolder(str(tmp_path / "data"), image_size=8).table("train").images.copy()
    nobody_may_write(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(cache_module, "decode", None)
    assert np.array_equal(ImageFolder(str(tmp_path / "data"), image_size=8).table("train").images, first)
    assert not list((tmp_path / "home").rglob("*.npy"))


def test_what_another_user_lacks_is_built_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image_folder(tmp_path / "data")
    ImageFolder(str(tmp_path / "data"), image_size=8).table("train")
    nobody_may_write(monkeypatch, tmp_path / "home")
    data = ImageFolder(str(tmp_path / "data"), image_size=4)
    table = data.table("train")
    assert np.array_equal(table.images[0], decode(tmp_path / "data" / table.ids[0], Preprocessing(4, 3, "center")))
    assert len(list((tmp_path / "home").rglob("*.npy"))) == 1


def test_a_cache_folder_of_another_user_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".patronus_cache").mkdir()
    access: Any = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: ".patronus" not in str(path) and access(path, mode))
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/.cache")
    assert cache_folder(tmp_path, None) == Path("/home/me/.cache/patronus_pl")


BUILD_WITHOUT_LOCKS = """
import sys
sys.modules["fcntl"] = None
from patronus_pl.data import ImageFolder
data = ImageFolder(sys.argv[1], image_size=8)
data.setup()
print({split: int(table.images.sum()) for split, table in data.tables.items()})
"""


def test_two_processes_without_locks_both_end_right(tmp_path: Path) -> None:
    make_image_folder(tmp_path, count=50)
    runs = [
        subprocess.Popen([sys.executable, "-c", BUILD_WITHOUT_LOCKS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [run.communicate(timeout=120)[0] for run in runs]
    data = ImageFolder(str(tmp_path), image_size=8)
    data.setup()
    expected = str({split: int(table.images.sum()) for split, table in data.tables.items()})
    assert [line.strip() for line in said] == [expected, expected]
    assert not list((tmp_path / ".patronus_cache").glob("*.partial"))
