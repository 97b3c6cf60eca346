"""A model and images small enough to be explained in a test."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import instantiate_module

from patronus_pl.analysis.report.findings import Effort
from patronus_pl.analysis.subject import Subject
from patronus_pl.data import PlantedFaces
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.modules import PatronusModule
from tests.conftest import tiny_configuration

LITTLE = Effort(
    edited=3, levels=3, guided=2, candidates=4, recovered=12, noise_levels=5, timed=2, instants=3, measured=4, patches=4
)
FEW = Sampling(2)


def tiny_model(count: int, channels: int = 3, size: int = 16) -> PatronusModule:
    """Untrained, for images of 16 × 16 pixels."""
    return _built(tiny_configuration(channels=channels, count=count, size=size))


def masked_model(count: int) -> PatronusModule:
    """The same of RGB images with masks."""
    masks = {"class_path": "patronus_pl.objective.masks.Masks"}
    return _built(tiny_configuration(channels=3, count=count, denoiser={"maskable": True}, masks=masks))


def _built(configuration: dict[str, Any]) -> PatronusModule:
    torch.manual_seed(0)
    model: PatronusModule = instantiate_module(PatronusModule, configuration)
    return model.eval()


def faces(count: int = 40, size: int = 16, parts: int = 20) -> Subject:
    """Planted faces with their attributes and the masks of the first few."""
    data = PlantedFaces(train_size=4, val_size=count, test_size=4, image_size=size)
    table, names = data.table("val"), data.attribute_names
    shown = data.masks("val", range(parts))
    nothing = np.zeros_like(shown[:, 0])
    of = {name: data.part_names.index(part) for name, part in data.attribute_part.items()}
    masks = np.stack([shown[:, of[name]] if name in of else nothing for name in names], axis=1)
    return Subject(table.images, table.attributes, table.ids, names, data.attribute_kind, data.describe(), masks)


def unlabelled(count: int = 10, channels: int = 1, size: int = 16) -> Subject:
    """Noise without attributes."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return Subject(images, np.zeros((count, 0), np.float32), [f"image {k}" for k in range(count)])


@torch.no_grad()
def with_ranges(model: PatronusModule, subject: Subject) -> PatronusModule:
    """The model with prototypes from real patches and with the statistics that training would have left."""
    x = subject.first(len(subject.images))
    model.prototypes.initialise_from(model.encoder(x), torch.Generator().manual_seed(0))
    s = model.encode(x)
    statistics: dict[str, Any] = {
        "mean": s.mean(0),
        "std": s.std(0, correction=0),
        "low": s.quantile(0.02, 0),
        "high": s.quantile(0.98, 0),
    }
    for name, value in statistics.items():
        getattr(model.prototypes, name).copy_(value)
    return model
