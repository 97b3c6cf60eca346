"""Images of noise to train on for a few steps, and a trainer that says nothing."""

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

EPSILON = {"class_path": "patronus_pl.diffusion.Epsilon"}
PLAIN_V = {"class_path": "patronus_pl.diffusion.Velocity", "init_args": {"skip_width": None, "weight_cap": None}}
PREDICTIONS: list[dict[str, Any]] = [EPSILON, PLAIN_V, {"class_path": "patronus_pl.diffusion.Velocity"}]


def images(count: int = 4, channels: int = 1, size: int = 16) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def objective(**weights: float) -> dict[str, Any]:
    """An objective with these penalties alone, whose weights grow over 10 steps."""
    names = ("decorrelation", "kurtosis", "sparsity", "faithfulness", "looking", "distinctness")
    return {name: {"weight": weights.get(name, 0.0), "warmup": 10} for name in names}


class Faces(pl.LightningDataModule):
    """Images of noise, the same in every split."""

    def __init__(
        self, shape: tuple[int, int, int] = (1, 16, 16), value: float = 1.0, count: int = 16, batch_size: int = 4
    ) -> None:
        super().__init__()
        self.image_shape, self.batch_size = shape, batch_size
        self.rows = [{"image": row, "id": str(i)} for i, row in enumerate(images(count, shape[0], shape[1]) * value)]

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.rows, batch_size=self.batch_size)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class Tied(Faces):
    """The same with three attributes, of which the last two agree in three quarters of the images."""

    attribute_names = ("Hat", "Hair", "Smile")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        hair = [float(i < 8) for i in range(16)]
        smile = [float(i < 6 or i >= 14) for i in range(16)]
        self.attributes = np.array([[0.0] * 16, hair, smile], dtype=np.float32).T
        for row, attributes in zip(self.rows, self.attributes, strict=True):
            row["attributes"] = torch.from_numpy(attributes)

    def table(self, split: str) -> Any:
        return SimpleNamespace(attributes=self.attributes)


def make_trainer(**options: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{"max_epochs": 1, "accelerator": "cpu", "num_sanity_val_steps": 0, **quiet, **options})


class Steps(pl.Callback):
    """What every training step logged, and the loss that it returned as `total`."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.logged.append({**found, "total": outputs["loss"].item()})


def fit(model: pl.LightningModule, data: Any, steps: int, **options: Any) -> list[dict[str, float]]:
    """Train for some steps and return what each of them logged."""
    seen = Steps()
    trainer = make_trainer(max_epochs=-1, max_steps=steps, limit_val_batches=0, callbacks=[seen], **options)
    trainer.fit(model.train(), data)
    return seen.logged
