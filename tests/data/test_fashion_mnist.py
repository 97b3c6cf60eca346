from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.mnist import read_image_file, read_label_file

from patronus_pl.data import FashionMNIST
from patronus_pl.data.fashion_mnist import DEBIAN, read_idx
from patronus_pl.errors import CorruptFileError, DatasetNotFoundError

from .trees import make_fashion_mnist

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def test_reads_what_torchvision_reads(tmp_path: Path) -> None:
    make_fashion_mnist(tmp_path, gz=False)
    assert np.array_equal(read_idx(tmp_path / IMAGES, 3), read_image_file(str(tmp_path / IMAGES)).numpy())
    assert np.array_equal(read_idx(tmp_path / LABELS, 1), read_label_file(str(tmp_path / LABELS)).numpy())


@pytest.mark.parametrize(("below", "gz"), [(".", True), (".", False), ("FashionMNIST/raw", True)])
def test_splits_and_classes(tmp_path: Path, below: str, gz: bool) -> None:
    written = make_fashion_mnist(tmp_path / below, gz=gz)
    data = FashionMNIST(str(tmp_path))
    data.setup()
    assert data.image_shape == (1, 32, 32)
    assert [len(data.table(split)) for split in ("train", "val", "test")] == [20, 20, 20]
    assert np.array_equal(data.table("val").attributes.argmax(1), written[LABELS][20:])
    assert data.table("val").ids[0] == "train-00020"
    assert len(data.attribute_names) == len(data.attribute_kind) == data.table("test").attributes.shape[1] == 10


def test_resizes_as_pillow_does(tmp_path: Path) -> None:
    written = make_fashion_mnist(tmp_path)
    resized = [Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR) for image in written[IMAGES][:20]]
    assert np.array_equal(FashionMNIST(str(tmp_path)).table("train").images[:, 0], np.stack(resized))


def test_native_size_is_untouched(tmp_path: Path) -> None:
    written = make_fashion_mnist(tmp_path)
    images = FashionMNIST(str(tmp_path), image_size=28).table("test").images
    assert np.array_equal(images[:, 0], written["t10k-images-idx3-ubyte"])


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"no folder '.*nowhere'.*dataset-fashion-mnist.*download"):
        FashionMNIST(str(tmp_path / "nowhere")).setup()
    (tmp_path / "holiday.png").touch()
    with pytest.raises(DatasetNotFoundError, match=r"no IDX files in .* \(it holds holiday.png\)"):
        FashionMNIST(str(tmp_path)).setup()
    make_fashion_mnist(tmp_path)
    (tmp_path / f"{LABELS}.gz").unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"no {LABELS}\(.gz\) in"):
        FashionMNIST(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("gz", "damage", "message"),
    [
        (False, lambda data: data[:1000], r"train-images-idx3-ubyte is truncated.*984 bytes of data where 40×28×28"),
        (False, lambda data: data + b"x", "is truncated or too long"),
        (False, lambda data: b"\x89PNG" + data, r"no IDX file of 3 dimensions: it starts with 89 50 4e 47"),
        (False, lambda data: b"", "it starts with nothing"),
        (True, lambda data: data[:500], r"ubyte.gz is no complete gzip file"),
        (True, lambda data: b"<html>", r"ubyte.gz is no complete gzip file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, gz: bool, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    make_fashion_mnist(tmp_path, gz=gz)
    path = tmp_path / (f"{IMAGES}.gz" if gz else IMAGES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptFileError, match=message):
        FashionMNIST(str(tmp_path)).setup()


def test_images_and_labels_of_two_data_sets(tmp_path: Path) -> None:
    make_fashion_mnist(tmp_path / "a", train=40)
    make_fashion_mnist(tmp_path / "b", train=30)
    (tmp_path / "b" / f"{LABELS}.gz").rename(tmp_path / "a" / f"{LABELS}.gz")
    with pytest.raises(CorruptFileError, match="40 train images and 30 labels up to 9 do not belong together"):
        FashionMNIST(str(tmp_path / "a")).setup("fit")


@pytest.mark.skipif(not Path(DEBIAN).is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_debian_package() -> None:
    data = FashionMNIST()
    data.setup()
    assert {split: len(table) for split, table in data.tables.items()} == {"train": 55000, "val": 5000, "test": 10000}
    assert (data.table("test").attributes.sum(0) == 1000).all()  # balanced, says the paper
    total = data.table("train").attributes.sum(0) + data.table("val").attributes.sum(0)
    assert (total == 6000).all()
    assert data.table("test").attributes[0].argmax() == data.attribute_names.index("Ankle_boot")
