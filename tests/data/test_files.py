from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from patronus_pl.data import ImageFolder
from patronus_pl.data.files import Listing, by_split
from patronus_pl.data.scan import scan
from patronus_pl.data.splits import split_by_position, split_groups
from patronus_pl.errors import InvalidOptionError

from .trees import make_image_folder


@pytest.mark.parametrize(
    ("count", "val", "test", "expected"),
    [(10, 0.1, 0.1, (8, 1, 1)), (3, 0.1, 0.1, (1, 1, 1)), (1000, 0.15, 0.3, (550, 150, 300)), (7, 0.0, 0.0, (7, 0, 0))],
)
def test_shares(count: int, val: float, test: float, expected: tuple[int, ...]) -> None:
    split = split_by_position([f"image{i}" for i in range(count)], val, test, seed=0)
    assert tuple(split.count(name) for name in ("train", "val", "test")) == expected


def test_an_image_keeps_its_split_whatever_the_order() -> None:
    names = [f"image{i}" for i in range(50)]
    forwards = dict(zip(names, split_by_position(names, 0.2, 0.2, seed=3), strict=True))
    backwards = dict(zip(names[::-1], split_by_position(names[::-1], 0.2, 0.2, seed=3), strict=True))
    assert forwards == backwards


def test_nothing_to_split() -> None:
    assert split_groups("position", [], 0.1, 0.1, seed=0) == split_groups("hash", [], 0.1, 0.1, seed=0) == []
    with pytest.raises(InvalidOptionError, match="of 2 images or groups leave none to train on"):
        split_groups("position", ["a", "b"], 0.1, 0.1, seed=0)


def test_cutting_a_listing() -> None:
    listing = Listing([Path(name) for name in "abcd"], np.arange(4, dtype=np.float32)[:, None], list("ABCD"))
    parts = by_split(listing, ["test", "train", "test", "val"])
    assert parts["test"].files == [Path("a"), Path("c")]
    assert parts["test"].ids == ["A", "C"]
    assert parts["test"].attributes.tolist() == [[0], [2]]
    assert (parts["train"].ids, parts["val"].ids) == (["B"], ["D"])


def test_hidden_files_are_not_found(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpeg", ".d.png", ".patronus_cache/e.png", "a/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images, others, _ = scan(tmp_path)
    assert images == [tmp_path / "a/c.jpeg", tmp_path / "b.PNG"]
    assert others == [tmp_path / "a/notes.md"]


@pytest.mark.parametrize(("stage", "splits"), [("fit", {"train", "val"}), ("test", {"test"})])
def test_preparing_decodes_what_the_stage_needs(tmp_path: Path, stage: str, splits: set[str]) -> None:
    make_image_folder(tmp_path)
    data = ImageFolder(str(tmp_path), image_size=8)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn=stage))  # type: ignore[assignment]
    data.prepare_data()
    cached = {path.name.split("-")[1] for path in (tmp_path / ".patronus_cache").glob("*.npy")}
    assert cached == splits


def test_preparing_without_a_trainer_decodes_nothing(tmp_path: Path) -> None:
    make_image_folder(tmp_path)
    ImageFolder(str(tmp_path), image_size=8).prepare_data()
    assert not (tmp_path / ".patronus_cache").exists()


def test_worker_processes_read_the_same_memory_map(tmp_path: Path) -> None:
    make_image_folder(tmp_path)
    here, there = (
        ImageFolder(str(tmp_path), image_size=8, batch_size=4, num_workers=workers, in_memory_mb=0)
        for workers in (0, 1)
    )
    for one, other in zip(here.loader("train"), there.loader("train"), strict=True):
        assert one["id"] == other["id"]
        assert np.array_equal(one["image"], other["image"])
