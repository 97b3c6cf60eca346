"""The range in which each prototype moves over a set of images: what edits turn it up and down to."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Activations, Image

LOW, HIGH = 0.02, 0.98
"""Quantiles that bound a range: one odd image does not stretch it."""


def ranges(s: Activations) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Low and high end of each prototype's range."""
    low, high = s.quantile(torch.tensor([LOW, HIGH], dtype=s.dtype, device=s.device), dim=0)
    return low, high


def unmeasured(model: PatronusModule) -> bool:
    """Whether the ranges are still the 0..1 that every model starts with.

    So they are before the first validation of a training, and in checkpoints that were imported.
    """
    return bool((model.activation_low == 0).all() and (model.activation_high == 1).all())


@evaluating
def measure_ranges(model: PatronusModule, batches: Iterable[Image]) -> None:
    """Store the ranges over some images in the model.

    Args:
        model: the model; its `activation_low` and `activation_high` change, nothing else does.
        batches: images in [-1, 1]; a few hundred or more, and typical ones.
    """
    set_ranges(model, torch.cat([model.encode(x.to(model.device)) for x in batches]))


def set_ranges(model: PatronusModule, s: Activations) -> None:
    """The same from activations that are known already."""
    for buffer, values in zip((model.activation_low, model.activation_high), ranges(s), strict=True):
        buffer.copy_(values)
