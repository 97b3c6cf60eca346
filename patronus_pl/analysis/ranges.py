"""The range of each prototype over a set of images: the two activations that edits turn it down and up to."""

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.modules import PatronusModule
from patronus_pl.types import Activations

LOW, HIGH = 0.02, 0.98
"""Quantiles that bound a range, so that a single odd image does not stretch it."""


def ranges(s: Activations) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Return the 2nd and the 98th percentile of each prototype's activations, two tensors of shape (m,).

    >>> low, high = ranges(torch.linspace(0, 1, 101)[:, None])
    >>> round(low.item(), 4), round(high.item(), 4)
    (0.02, 0.98)
    """
    low, high = s.quantile(torch.tensor([LOW, HIGH], dtype=s.dtype, device=s.device), dim=0)
    return low, high


def unmeasured(model: PatronusModule) -> bool:
    """Return whether the ranges are still the 0..1 that every model starts with.

    They are before the first validation of a training, and in imported checkpoints.
    """
    return bool((model.activation_low == 0).all() and (model.activation_high == 1).all())


def set_ranges(model: PatronusModule, s: Activations) -> None:
    """Store the ranges of activations in the model: `activation_low` and `activation_high` change, nothing else does.

    Args:
        model: the model.
        s: (n, m) activations of a few hundred typical images or more.
    """
    for buffer, values in zip((model.activation_low, model.activation_high), ranges(s), strict=True):
        buffer.copy_(values)
