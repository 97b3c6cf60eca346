"""`evaluating`: what every explanation does to the model first, and undoes."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

import torch

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
            with torch.no_grad():  # unlike inference mode, its results may be used in computations with gradients
                return function(model, *args, **kwargs)
        finally:
            model.train(training)

    return cast(Callable[Concatenate[PatronusModule, P], R], wrapped)
