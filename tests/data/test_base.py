import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

import patronus_pl.data
from patronus_pl.data import CIFAR10, BiasedSubset, FashionMNIST, ImageDataModule, ImageTable
from patronus_pl.errors import InvalidOptionError
from patronus_pl.pixels import as_bytes, as_floats

from .trees import make_cifar10, make_fashion_mnist


def table(count: int = 10) -> ImageTable:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return ImageTable(images, np.arange(count, dtype=np.float32)[:, None] % 2, [f"i{i}" for i in range(count)])


def test_a_batch_is_what_its_rows_are() -> None:
    whole = table()
    batch = whole.__getitems__([7, 2, 2])
    for k, row in enumerate((7, 2, 2)):
        one = whole[row]
        assert torch.equal(batch["image"][k], one["image"])
        assert np.array_equal(one["image"], whole.images[row])
        assert batch["id"][k] == one["id"] == f"i{row}"
        assert batch["attributes"][k] == one["attributes"] == row % 2


def test_subsets_of_subsets() -> None:
    whole = table()
    part = whole.subset(np.array([8, 3, 5])).subset(np.array([2, 0]))
    assert part.ids == ["i5", "i8"]
    assert np.array_equal(part.images, whole.images[[5, 8]])
    assert np.array_equal(part.__getitems__([1, 0])["image"], whole.images[[8, 5]])
    assert part.attributes.ravel().tolist() == [1, 0]


def test_a_subset_of_a_memory_map_copies_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", table().images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    part = ImageTable(mapped, table().attributes, table().ids).subset(np.array([4, 1]))
    assert part._stored is mapped
    sent = pickle.dumps(part)
    assert len(sent) < 1500 < mapped.nbytes * 10
    received = pickle.loads(sent)
    assert isinstance(received._stored, np.memmap)
    assert np.array_equal(received.images, table().images[[4, 1]])


def test_a_table_that_does_not_fit_together() -> None:
    with pytest.raises(ValueError, match="10 images, 10 attribute rows and 9 ids"):
        ImageTable(table().images, table().attributes, table().ids[:9])


def test_bytes_and_floats() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = as_floats(every)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(as_bytes(floats), every)
    assert torch.equal(as_bytes(torch.full((1, 1, 1, 1), 3.0)), torch.full((1, 1, 1, 1), 255, dtype=torch.uint8))


def test_limit_and_bias(tmp_path: Path) -> None:
    make_cifar10(tmp_path, count=80)
    data = CIFAR10(str(tmp_path), limit=7)
    assert data.table("train").ids == [f"train-{i:05d}" for i in range(7)]
    bias = BiasedSubset({"Cat|Dog|Frog,Cat": 1.0})
    data = CIFAR10(str(tmp_path), bias=bias, limit=30)
    kept = data.table("train").attributes
    assert len(kept) == 30
    assert (kept[:, [3, 5, 6]].sum(1) == 1).all()
    assert data.describe()["bias"] == {"pairs": {"Cat|Dog|Frog,Cat": 1.0}, "rule": None, "seed": 0}
    assert data.describe()["limit"] == 30


def test_loaders(tmp_path: Path) -> None:
    make_fashion_mnist(tmp_path, train=45)
    data = FashionMNIST(str(tmp_path), batch_size=8)
    train, val = list(data.train_dataloader()), list(data.val_dataloader())
    assert [len(batch["id"]) for batch in train] == [8, 8]
    assert [len(batch["id"]) for batch in val] == [8, 8, 7]
    assert [name for batch in val for name in batch["id"]] == data.table("val").ids
    assert train[0]["image"].dtype == torch.uint8
    assert not {name for batch in train for name in batch["id"]} & set(data.table("val").ids)


class Mean(pl.LightningModule):
    """Looks at the batches that a trainer hands to a model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[Tensor] = []

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        self.seen.append(batch["image"])
        return self.layer(batch["image"].mean().reshape(1, 1)).sum()

    validation_step = test_step = predict_step = training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*:FutureWarning")
def test_through_a_trainer(tmp_path: Path) -> None:
    make_fashion_mnist(tmp_path)
    data, model = FashionMNIST(str(tmp_path), batch_size=4), Mean()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(fast_dev_run=1, default_root_dir=tmp_path, **quiet)
    trainer.fit(model, data)
    assert set(data.tables) == {"train", "val"}
    trainer.test(model, data, verbose=False)
    trainer.predict(model, data)
    assert len(model.seen) == 4
    for images in model.seen:
        assert images.shape == (4, 1, 32, 32)
        assert images.dtype == torch.float32
        assert -1 <= images.min() < -0.5 < 0.5 < images.max() <= 1


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*:FutureWarning")
def test_the_subset_travels_with_the_checkpoint(tmp_path: Path) -> None:
    make_fashion_mnist(tmp_path, train=200)
    bias = BiasedSubset({"Bag|Coat,Bag": 1.0}, seed=4)
    trainer = pl.Trainer(barebones=True, max_steps=1, limit_val_batches=0, default_root_dir=tmp_path)
    trainer.fit(Mean(), FashionMNIST(str(tmp_path), batch_size=4, bias=bias))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert BiasedSubset(**saved["bias"]) == bias
    assert (saved["root"], saved["batch_size"]) == (str(tmp_path), 4)


def test_from_yaml() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageDataModule, "data")
    given = {"root": "x", "bias": {"pairs": {"Bag,Coat": 0.5}, "seed": 2}}
    config = parser.parse_object({"data": {"class_path": "patronus_pl.data.FashionMNIST", "init_args": given}})
    built = parser.instantiate(config).data
    assert isinstance(built, FashionMNIST)
    assert built.bias == BiasedSubset({"Bag,Coat": 0.5}, seed=2)


@pytest.mark.parametrize("name", ["image_size", "batch_size", "limit"])
def test_impossible_sizes(name: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"data.{name} is 0; it must be at least 1"):
        FashionMNIST(**{name: 0})


def test_unknown_and_empty_splits(tmp_path: Path) -> None:
    make_fashion_mnist(tmp_path, test=0)
    data = FashionMNIST(str(tmp_path))
    with pytest.raises(InvalidOptionError, match="unknown split 'dev'; choose one of train, val, test"):
        data.table("dev")
    with pytest.raises(InvalidOptionError, match="the test split of FashionMNIST is empty"):
        data.setup("test")


def test_every_public_name_exists() -> None:
    for name in patronus_pl.data.__all__:
        assert getattr(patronus_pl.data, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'MNIST'"):
        patronus_pl.data.MNIST  # noqa: B018


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, patronus_pl.data; print(sorted({'torch', 'lightning', 'PIL', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
