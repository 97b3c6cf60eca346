"""What every explanation needs of a model: evaluation mode, and the scale of each prototype."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.modules import PatronusModule

P = ParamSpec("P")
R = TypeVar("R")


def evaluating(function: Callable[Concatenate[PatronusModule, P], R]) -> Callable[Concatenate[PatronusModule, P], R]:
    """Run `function(model, ...)` in evaluation mode and without gradients, and leave the model as it was.

    Dropout in a model fresh from training would make two runs from the same noise differ, and every effect of an edit
    with it.
    """

    @wraps(function)
    def wrapped(model: PatronusModule, *args: P.args, **kwargs: P.kwargs) -> R:
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                return function(model, *args, **kwargs)
        finally:
            model.train(training)

    return cast(Callable[Concatenate[PatronusModule, P], R], wrapped)


NORMAL_RANGE = 4.107
"""Width of a normal distribution from its 2nd to its 98th percentile, in standard deviations."""


def deviation(model: PatronusModule) -> Float[Tensor, " m"]:
    """Each prototype's standard deviation σ over the training images, on the CPU.

    A model that does not standardise keeps none: there it is that of a normal distribution of the same range.
    """
    if model.standardise:
        return model.activation_std.cpu()
    return (model.activation_high - model.activation_low).cpu() / NORMAL_RANGE
