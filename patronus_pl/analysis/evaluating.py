"""`evaluating`: a decorator that puts the model into evaluation mode while a function runs."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

import torch

from patronus_pl.modules import PatronusModule

P = ParamSpec("P")
R = TypeVar("R")


def evaluating(function: Callable[Concatenate[PatronusModule, P], R]) -> Callable[Concatenate[PatronusModule, P], R]:
    """Make `function(model, ...)` run with the model in evaluation mode and without gradients.

    The mode that the model was in before is restored afterwards, also after an error. In training mode dropout would
    make two runs from the same noise differ, and an edit could not be told from chance.
    """

    @wraps(function)
    def wrapped(model: PatronusModule, *args: P.args, **kwargs: P.kwargs) -> R:
        training = model.training
        model.eval()
        try:
            with torch.no_grad():  # not inference mode, whose results cannot be used in computations with gradients
                return function(model, *args, **kwargs)
        finally:
            model.train(training)

    return cast(Callable[Concatenate[PatronusModule, P], R], wrapped)
