import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from patronus_pl.data import Activations
from patronus_pl.denoiser import VectorNet
from patronus_pl.diffusion import NoiseSchedule
from patronus_pl.errors import CorruptFileError, DatasetNotFoundError, InvalidOptionError
from patronus_pl.modules import LatentPrior
from tests.callbacks.runs import trainer

from .trees import make_activations


class Seen(pl.Callback):
    """Which rows every step saw, and a checkpoint in the middle of the first epoch."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, list[list[str]]()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: int) -> None:
        self.rows.append(batch["id"])
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    make_activations(tmp_path / "s.npz")
    return tmp_path / "s.npz"


def test_every_row_is_in_one_split(file: Path) -> None:
    written = make_activations(file)
    data = Activations(str(file), batch_size=8, val_fraction=0.2)
    data.setup("fit")
    train, val = list(data.train_dataloader()), list(data.val_dataloader())
    rows = {}
    for batch in train + val:
        assert batch["activations"].dtype == torch.float32
        rows |= dict(zip(batch["id"], zip(batch["activations"], batch["attributes"], strict=True), strict=True))
    assert sum(len(batch["id"]) for batch in val) == 8
    assert sorted(rows) == written["ids"].tolist()
    for i, name in enumerate(written["ids"]):
        assert np.array_equal(rows[name][0], written["activations"][i])
        assert np.array_equal(rows[name][1], written["attributes"][i])
    assert (data.size, data.attribute_names) == (6, ("Smiling", "Eyeglasses"))
    assert [b["id"] for b in data.test_dataloader()] == [b["id"] for b in val]


def test_ranks_share_the_rows(file: Path) -> None:
    """Of 32 rows that train and 8 that validate; together they take those of one rank with larger batches."""

    def rows(ranks: int, rank: int, split: str) -> list[list[str]]:
        data = Activations(str(file), batch_size=6 // ranks, val_fraction=0.2)
        data.setup()
        data.trainer = SimpleNamespace(world_size=ranks, global_rank=rank)
        return [batch["id"] for batch in getattr(data, f"{split}_dataloader")()]

    for split, count in (("train", 30), ("val", 8)):
        one, halves = rows(1, 0, split), [rows(2, rank, split) for rank in (0, 1)]
        assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in one]
        assert len({name for batch in one for name in batch}) == count


def test_a_resumed_prior_sees_the_rows_it_would_have_seen(file: Path, tmp_path: Path) -> None:
    def fit(name: str, half: Path | None = None) -> tuple[list[list[str]], dict[str, torch.Tensor]]:
        torch.manual_seed(len(name))
        prior = LatentPrior(VectorNet(6, width=8, blocks=1), NoiseSchedule(10), warmup_steps=0)
        seen = Seen(tmp_path / f"{name}.ckpt")
        once = trainer(tmp_path, seen, max_steps=7, max_epochs=-1)
        data = Activations(str(file), batch_size=8, val_fraction=0.2)
        once.fit(prior, data, ckpt_path=half and str(half), weights_only=True)
        return seen.rows, prior.state_dict()

    (whole, expected), (rest, found) = fit("whole"), fit("the rest", tmp_path / "whole.ckpt")
    assert rest == whole[3:]
    assert len({tuple(rows) for rows in whole}) == 7
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


def test_the_seed_decides_who_validates(file: Path) -> None:
    def validating(seed: int) -> list[str]:
        data = Activations(str(file), seed=seed)
        data.setup()
        return data.tables["val"].ids

    assert validating(0) == validating(0) != validating(1)


def test_splits_of_the_file_are_kept(file: Path) -> None:
    arrays = make_activations(file)
    split = np.array(["train"] * 25 + ["val"] * 10 + ["test"] * 5)
    np.savez(file, **arrays, split=split)
    data = Activations(str(file))
    data.setup()
    for name in ("train", "val", "test"):
        assert data.tables[name].ids == arrays["ids"][split == name].tolist()
    assert next(iter(data.test_dataloader()))["id"] == arrays["ids"][35:].tolist()


def test_activations_alone_suffice(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", activations=np.zeros((10, 3), np.float16))
    data = Activations(str(tmp_path / "s.npz"))
    batch = next(iter(data.predict_dataloader())) if data.setup() is None else {}
    assert batch["activations"].shape == (1, 3)
    assert batch["attributes"].shape == (1, 0)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"no file of activations .*s.npz; write it with: patronus encode"):
        Activations(str(tmp_path / "s.npz")).setup()


def damaged(file: Path, how: str) -> None:
    arrays: dict[str, Any] = make_activations(file)
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:500])
    elif how == "pickle":
        file.write_bytes(pickle.dumps(arrays))
    elif how == "object":
        np.savez(file, activations=np.array([[1, "a"], [None, 2]], dtype=object))
    elif how == "lacking":
        np.savez(file, s=arrays["activations"])
    elif how == "flat":
        np.savez(file, activations=np.zeros(5, np.float32))
    elif how == "mismatch":
        np.savez(file, **{**arrays, "ids": arrays["ids"][:7]})
    elif how == "nan":
        arrays["activations"][3, 2] = np.nan
        np.savez(file, **arrays)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"s.npz is no complete .npz"),
        ("pickle", r"s.npz is no complete .npz"),
        ("object", r"s.npz is no complete .npz of plain arrays"),
        ("lacking", r"has no float array activations \(n, m\), but s float32\[40, 6\]"),
        ("flat", r"but activations float32\[5\]"),
        ("mismatch", "7 ids for 40 activations"),
        ("nan", "1 activations are not finite"),
    ],
)
def test_damaged_files_are_named(file: Path, how: str, message: str) -> None:
    damaged(file, how)
    with pytest.raises(CorruptFileError, match=message):
        Activations(str(file)).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size is 0"),
        ({"val_fraction": 0.0}, "data.val_fraction is 0.0; it must lie between 0 and 1"),
        ({"val_fraction": 0.99}, "40 rows leave nothing in the train split"),
    ],
)
def test_impossible_options(file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        Activations(str(file), **options).setup()
