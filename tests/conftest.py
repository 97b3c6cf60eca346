"""Models small enough to be built, trained and sampled from in a test."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import instantiate_module

from patronus_pl.modules import PatronusModule

ModelFactory = Callable[..., PatronusModule]


def tiny_configuration(
    channels: int = 1,
    size: int = 16,
    count: int = 3,
    encoder: dict[str, Any] | None = None,
    prototypes: dict[str, Any] | None = None,
    denoiser: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """What a YAML would say of a tiny model. Dictionaries replace arguments of its parts."""
    parts = {
        "encoder": (
            "patronus_pl.prototypes.PatchEncoder",
            {"channels": [channels, 8, 16], "kernel_sizes": [3, 3], "strides": [2, 1], "paddings": [1, 0]},
            encoder,
        ),
        "prototypes": ("patronus_pl.prototypes.PrototypeLayer", {"count": count, "dim": 16}, prototypes),
        "denoiser": (
            "patronus_pl.denoiser.UNet",
            {"image_channels": channels, "condition_dim": count, "base": 8, "multipliers": [1, 2], "blocks": 1},
            denoiser,
        ),
        "schedule": ("patronus_pl.diffusion.NoiseSchedule", {}, schedule),
    }
    built = {
        name: {"class_path": path, "init_args": {**defaults, **(changes or {})}}
        for name, (path, defaults, changes) in parts.items()
    }
    return {"image_shape": [channels, size, size], **built, **arguments}


@pytest.fixture
def make_model() -> ModelFactory:
    """Build a tiny model; arguments as `tiny_configuration`."""

    def make(**arguments: Any) -> PatronusModule:
        torch.manual_seed(0)
        return instantiate_module(PatronusModule, tiny_configuration(**arguments)).eval()

    return make


@pytest.fixture
def tiny_model(make_model: ModelFactory) -> PatronusModule:
    """1x16x16 images, 3 prototypes, untrained."""
    return make_model()
