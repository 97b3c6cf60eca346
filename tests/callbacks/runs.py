"""Runs of a few steps, on images small enough to train on in a test."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.cli import instantiate_module

from patronus_pl.data import ImageTable, PlantedFaces
from patronus_pl.data.base import ImageDataModule
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_bytes
from tests.analysis.painter import images
from tests.conftest import tiny_configuration


class Squares(ImageDataModule):
    """What `tests.analysis.painter` paints: 1 × 8 × 8 pixels, four quarters, n images a split.

    Attribute `light_j` says that quarter j is light, `dark_3` that quarter 3 is dark, `always` nothing.
    """

    attribute_names = ("light_0", "light_1", "light_2", "dark_3", "always")
    image_shape = (1, 8, 8)

    def __init__(self, count: int = 5, batch_size: int = 2) -> None:
        super().__init__(None, 8, batch_size)
        self.count = count

    def load(self, split: str) -> ImageTable:
        pictures = as_bytes(images(self.count, seed=len(split)))
        light = pictures[:, 0, ::4, ::4].flatten(1) > 127
        attributes = np.concatenate([light.numpy(), np.ones((self.count, 1))], axis=1).astype(np.float32)
        attributes[:, 3] = 1 - attributes[:, 3]
        return ImageTable(pictures.numpy(), attributes, [f"{split}/{k}" for k in range(self.count)])


def faces(train: int = 8, val: int = 4, batch_size: int = 2) -> PlantedFaces:
    """Planted faces of 16 × 16 pixels."""
    return PlantedFaces(16, batch_size=batch_size, train_size=train, val_size=val, test_size=4)


def fresh(**arguments: Any) -> PatronusModule:
    """A model of faces before its first step, always the same, that learns fast and without chance."""
    torch.manual_seed(0)
    defaults = {"channels": 3, "lr": 0.01, "warmup_steps": 0, "denoiser": {"dropout": 0.0}}
    return instantiate_module(PatronusModule, tiny_configuration(**{**defaults, **arguments}))


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """One that says nothing, writes to the folder alone and validates after every epoch."""
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **{**defaults, **options},
    )
