import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from patronus_pl.data import FFHQ, ImageFolder
from patronus_pl.data.splits import split_by_folder, split_by_hash, split_groups
from patronus_pl.data.stored import keep_split_rule, recall_training, stored_configuration
from patronus_pl.errors import InvalidOptionError

from .trees import make_ffhq, picture

NAMES = [f"{i:05d}.png" for i in range(300)]


def images(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(i, 8, 8).save(root / name)
    return root


def members(data: ImageFolder) -> dict[str, set[str]]:
    return {split: set(listing.ids) for split, listing in data.listings().items()}


@pytest.mark.parametrize("new", ["zz.png", "00000a.png", "a/b.png"])
def test_a_new_image_moves_none_of_the_others(new: str) -> None:
    before = dict(zip(NAMES, split_by_hash(NAMES, 0.1, 0.1, seed=0), strict=True))
    after = dict(zip([*NAMES, new], split_by_hash([*NAMES, new], 0.1, 0.1, seed=0), strict=True))
    assert {name: after[name] for name in NAMES} == before


def test_shares_are_about_those_that_were_asked_for() -> None:
    names = [f"image{i}" for i in range(20000)]
    count = Counter(split_by_hash(names, 0.1, 0.25, seed=1))
    for split, share in (("train", 0.65), ("val", 0.1), ("test", 0.25)):
        assert count[split] / 20000 == pytest.approx(share, abs=4 * (share * (1 - share) / 20000) ** 0.5)


def test_seeds_are_independent() -> None:
    first, second = (np.array(split_by_hash(NAMES, 0.5, 0.0, seed=seed)) for seed in (0, 1))
    assert 0.4 < (first == second).mean() < 0.6


@pytest.mark.parametrize("count", range(3, 40))
def test_small_data_sets_have_every_split_that_is_wanted(count: int) -> None:
    splits = split_groups("hash", NAMES[:count], 0.1, 0.1, seed=0)
    assert set(splits) == {"train", "val", "test"}


def test_no_image_leaves_training_however_few_there_are() -> None:
    for seed in range(20):
        for count in range(3, 30):
            before = split_by_hash(NAMES[:count], 0.1, 0.1, seed)
            after = split_by_hash(NAMES[: count + 1], 0.1, 0.1, seed)
            assert all(then != "train" or now == "train" for then, now in zip(before, after, strict=False))


def test_both_unicode_forms_of_a_name_are_one_name() -> None:
    names = [f"é{i}.png" for i in range(50)]
    decomposed = [unicodedata.normalize("NFD", name) for name in names]
    assert decomposed != names
    assert split_by_hash(decomposed, 0.3, 0.3, 0) == split_by_hash(names, 0.3, 0.3, 0)


@pytest.mark.parametrize("rule", ["hash", "position"])
def test_fractions_that_leave_nothing(rule: Any) -> None:
    with pytest.raises(InvalidOptionError, match="of 300 images or groups leave none to train on; lower them"):
        split_groups(rule, NAMES, 0.5, 0.5, seed=0)
    with pytest.raises(InvalidOptionError, match=r"data.val_fraction is 1.5; it is a share"):
        split_groups(rule, NAMES, 1.5, 0.5, seed=0)


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "splits"),
    [
        (["train/a.png", "test/b.png", "c.png"], ["train", "test", None]),
        (["Training/cat/a.png", "valid/cat/b.png"], ["train", "val"]),
        (["bottle/train/good/a.png", "bottle/test/bad/b.png", "d/x.png"], ["train", "test", None]),
        (["train/a.png", "ship/b.png", "car/c.png"], [None, None, None]),  # trains among other vehicles
        (["test/a.png", "b.png"], [None, None]),
        (["train/test/a.png", "train/b.png", "test/train/c.png"], ["train", "train", "test"]),
        (["a.png"], [None]),
    ],
)
def test_folders_that_name_splits(ids: list[str], splits: list[str | None]) -> None:
    assert split_by_folder(ids) == splits


def test_folders_decide_the_split_of_an_image_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kinds = ("cat", "dog")
    train = [f"train/{kinds[i % 2]}/{i:03d}.png" for i in range(30)]
    test = [f"test/{kinds[i % 2]}/{i:03d}.png" for i in range(10)]
    found = members(ImageFolder(str(images(tmp_path, train + test)), image_size=8))
    assert found["test"] == set(test)
    assert found["train"] | found["val"] == set(train)
    assert len(found["val"]) >= 1
    assert "the folders called test, train are the splits: 30 train, 10 test" in caplog.text


def test_folders_for_all_three_splits(tmp_path: Path) -> None:
    names = {split: {f"{split}/{i}.png" for i in range(4)} for split in ("train", "val", "test")}
    assert members(ImageFolder(str(images(tmp_path, sorted(set().union(*names.values())))))) == names


def test_images_outside_of_split_folders_train_or_validate(tmp_path: Path) -> None:
    loose = [f"more/{i}.png" for i in range(40)]
    found = members(ImageFolder(str(images(tmp_path, ["train/a.png", "test/b.png", *loose]))))
    assert found["test"] == {"test/b.png"}
    assert len(found["train"]) > len(found["val"]) > 0


# ---- checkpoints -----------------------------------------------------------------------------------------------------


class Idle(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any], index: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(data: ImageFolder, path: Path) -> dict[str, Any]:
    trainer = pl.Trainer(barebones=True, max_steps=1, limit_val_batches=0, default_root_dir=path.parent)
    trainer.fit(Idle(), data)
    trainer.save_checkpoint(path)
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


quiet = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return images(tmp_path / "data", NAMES[:40])


def folder(root: Path, **options: Any) -> ImageFolder:
    return ImageFolder(str(root), **{"image_size": 8, "batch_size": 4, **options})


@quiet
def test_the_images_of_a_checkpoint_are_known(root: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    checkpoint = trained(folder(root), tmp_path / "x.ckpt")
    same = folder(root)
    recall_training(same, checkpoint)
    same.setup()
    assert not [warning for warning in recwarn if "ImageFolder" in str(warning.message)]
    (root / NAMES[0]).unlink()
    images(root, ["new.png"])
    with pytest.warns(UserWarning, match="40 then, 40 now; [01] of its 3[0-9] training images are missing"):
        recall_training(folder(root), checkpoint)


@quiet
def test_images_that_were_trained_on_are_said_where_they_test(root: Path, tmp_path: Path) -> None:
    checkpoint = trained(folder(root), tmp_path / "x.ckpt")
    other = folder(root, seed=5)
    recall_training(other, checkpoint)
    with pytest.warns(UserWarning, match="trained on [1-9] of the [0-9]+ images of the test split"):
        other.table("test")


@quiet
def test_a_resumed_run_says_that_its_images_changed(root: Path, tmp_path: Path) -> None:
    trained(folder(root), tmp_path / "x.ckpt")
    images(root, ["new.png"])
    trainer = pl.Trainer(max_steps=2, limit_val_batches=0, logger=False, default_root_dir=tmp_path, barebones=True)
    with pytest.warns(UserWarning, match="the images have changed since the checkpoint was trained: 40 then, 41 now"):
        trainer.fit(Idle(), folder(root), ckpt_path=str(tmp_path / "x.ckpt"), weights_only=True)


def test_a_checkpoint_without_a_rule_was_split_by_position() -> None:
    stored = {"_class_path": "patronus_pl.data.ImageFolder", "_instantiator": "x", "root": "/d", "val_fraction": 0.1}
    configuration = stored_configuration({"datamodule_hyper_parameters": stored})
    assert configuration == {
        "_class_path": "patronus_pl.data.ImageFolder",
        "root": "/d",
        "val_fraction": 0.1,
        "split_by": "position",
    }
    ruled = {**stored, "split_by": "hash"}
    assert (stored_configuration({"datamodule_hyper_parameters": ruled}) or {})["split_by"] == "hash"
    faces = {"_class_path": "patronus_pl.data.PlantedFaces", "image_size": 16}
    assert stored_configuration({"datamodule_hyper_parameters": faces}) == faces
    assert stored_configuration({}) is None
    assert stored_configuration({"datamodule_hyper_parameters": {"root": "/d"}}) is None


def test_a_resumed_run_of_version_0_1_keeps_its_split(root: Path) -> None:
    data, old = folder(root), folder(root, split_by="position")
    data.setup("test")
    stored = {"_class_path": "patronus_pl.data.ImageFolder", "val_fraction": 0.1, "root": str(root)}
    keep_split_rule(data, {"datamodule_hyper_parameters": stored})
    assert data.table("test").ids == old.table("test").ids
    assert data.hparams["split_by"] == "position"
    keep_split_rule(None, {"datamodule_hyper_parameters": stored})


def test_ffhq_splits_by_number(tmp_path: Path) -> None:
    make_ffhq(tmp_path, count=40)
    before = FFHQ(str(tmp_path), image_size=8).listings()
    picture(0, 16, 16).save(tmp_path / "00000" / "00100.png")
    after = FFHQ(str(tmp_path), image_size=8).listings()
    for split in ("train", "val", "test"):
        assert set(after[split].ids) - {"00100"} == set(before[split].ids)


@pytest.mark.parametrize(("count", "trains"), [(3, False), (1, False), (5, True)])
def test_very_small_folders_are_refused_before_training(tmp_path: Path, count: int, trains: bool) -> None:
    data = folder(images(tmp_path, NAMES[:count]))
    if trains:
        data.setup("fit")
        assert len(data.table("train")) >= 2
    else:
        with pytest.raises(InvalidOptionError, match=r"train split has 1 image; at least 2|none to train on"):
            data.setup("fit")
