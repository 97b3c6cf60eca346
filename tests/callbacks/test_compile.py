"""Which part is compiled, and where; what the compiler makes of it is PyTorch's."""

import copy
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch

from patronus_pl.callbacks import Compile
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule


def trainer_on(device: str) -> Any:
    return Mock(spec=pl.Trainer, strategy=Mock(root_device=torch.device(device)))


def compiled(model: torch.nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if part._compiled_call_impl is not None]


def test_on_a_gpu_the_denoiser_alone_and_under_the_same_names(tiny_model: PatronusModule) -> None:
    names = list(tiny_model.state_dict())
    Compile().setup(trainer_on("cuda"), tiny_model, "fit")
    assert compiled(tiny_model) == ["denoiser"]
    assert list(tiny_model.state_dict()) == names
    assert compiled(copy.deepcopy(tiny_model)) == []  # what EMA averages into is a copy that is never called


def test_on_a_cpu_nothing(tiny_model: PatronusModule) -> None:
    Compile().setup(trainer_on("cpu"), tiny_model, "fit")
    assert compiled(tiny_model) == []


def test_a_module_without_denoiser() -> None:
    with pytest.raises(
        InvalidOptionError, match="Compile compiles a denoiser, and LightningModule has none; leave it out"
    ):
        Compile().setup(trainer_on("cuda"), pl.LightningModule(), "fit")
