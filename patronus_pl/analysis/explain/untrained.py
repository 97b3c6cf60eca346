"""The null model: the same architecture before its first training step, with which explanations are compared."""

from inspect import signature
from typing import TypeVar

import torch
from torch import nn

from patronus_pl.analysis.editing.decoding import encode
from patronus_pl.analysis.ranges import set_ranges
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def untrained(model: PatronusModule, images: Image, seed: int = 0, batch_size: int = 64) -> PatronusModule:
    """Build a model of the same architecture before its first step, to compare `faithfulness` with.

    Its weights are fresh, its prototypes are patches of the images, as when training starts, and its statistics and
    ranges are those of the images.

    Args:
        model: the model whose architecture is built again.
        images: (n, c, h, w) in [-1, 1], n ≥ 2.
        seed: seed of the weights.
        batch_size: images at a time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        null = _built_again(model).to(model.device).eval()
    features = null.features(images[:batch_size].to(model.device))
    null.prototypes.initialise_from(features, torch.Generator().manual_seed(seed))
    s = encode(null, images, batch_size)
    set_ranges(null, s)
    null.prototypes.follow(s)
    return null


def _built_again(part: Module) -> Module:
    """Build a part again from its constructor's arguments, which it keeps as attributes of the same names."""
    arguments = {name: getattr(part, name) for name in signature(type(part)).parameters}
    return type(part)(
        **{name: _built_again(value) if isinstance(value, nn.Module) else value for name, value in arguments.items()}
    )
