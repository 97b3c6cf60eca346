"""One training step and one forward pass of a config's model, the plain way and the fast one.

No benchmark itself; `training.py`, `sampling.py`, `growth.py` and `epoch_time.py` take their models from here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lightning.pytorch.cli import instantiate_module
from torch import Tensor

from patronus_pl.hardware import best_precision
from patronus_pl.modules import PatronusModule

CONFIGS = Path(__file__).parent.parent / "configs"


class Way(NamedTuple):
    """How to compute the same thing."""

    name: str
    memory_format: torch.memory_format
    bfloat16: bool
    fused: bool

    @property
    def precision(self) -> str:
        return "bf16-mixed" if self.bfloat16 else "32-true"

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16)


PLAIN = Way("plain: fp32, contiguous", torch.contiguous_format, bfloat16=False, fused=False)
FAST = Way("patronus", torch.channels_last, bfloat16=best_precision() == "bf16-mixed", fused=True)


def model_of(
    config: str, size: int | None = None, m: int | None = None, dim: int | None = None, **denoiser: Any
) -> Any:
    """The model of a config, untrained, with another image size, number or length of prototypes, or denoiser."""
    section = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text(encoding="utf-8"))["model"]
    arguments = section["init_args"]
    parts = {name: arguments[name].get("init_args", arguments[name]) for name in ("encoder", "prototypes", "denoiser")}
    if size is not None:
        arguments["image_shape"][1:] = [size, size]
    if m is not None:
        parts["prototypes"]["count"] = parts["denoiser"]["condition_dim"] = m
    if dim is not None:
        parts["encoder"]["channels"][-1] = parts["prototypes"]["dim"] = dim
    parts["denoiser"].update(denoiser)
    torch.manual_seed(0)
    return instantiate_module(PatronusModule, {"_class_path": section["class_path"], **arguments})


def training_step(model: PatronusModule, batch: int, way: Way) -> Callable[[], None]:
    """A step on random images: forward, backward, clip, AdamW."""
    model = model.train().to(memory_format=way.memory_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=way.fused, foreach=False)
    images, t, noise = inputs(model, batch)

    def step() -> None:
        with way.autocast():
            s = model.prototypes(model.encoder(images))
            clean = model.denoiser_under(s)(model.schedule.add_noise(images, noise, t), t)
            loss = model.prediction.loss(images, clean, t, model.schedule).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def inputs(model: PatronusModule, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, timesteps and noise."""
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, batch, *model.image_shape, generator=generator)
    return images, torch.randint(0, model.schedule.timesteps, (batch,), generator=generator), noise
