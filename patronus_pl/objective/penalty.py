"""`Penalty`: what all penalties have in common."""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from patronus_pl.errors import InvalidOptionError
from patronus_pl.objective.step import TrainingStep


class Penalty(ABC):
    """One term of the objective, weight · value(step). To add one, copy `sparsity.py` and give `Objective` a slot.

    Args:
        weight: factor of the term in the loss; 0 switches it off, and it then costs nothing.
        warmup: optimiser steps over which the weight grows evenly from 0.

    Raises:
        InvalidOptionError: a weight or warm-up below 0.
    """

    name: ClassVar[str]
    """The slot in `Objective`, and the name under which the value is logged."""
    judges_edits: ClassVar[bool] = False
    """Whether `TrainingStep.edit` is needed. It costs half a pass through the denoiser."""

    def __init__(self, weight: float, warmup: int = 0) -> None:
        self.weight, self.warmup = weight, warmup
        for option, value in (("weight", weight), ("warmup", warmup)):
            if value < 0:
                raise InvalidOptionError(f"objective.{self.name}.{option} is {value}; it must not be negative")

    @abstractmethod
    def value(self, step: TrainingStep) -> Float[Tensor, ""]:
        """Return the penalty on this step, before it is weighed."""

    def weight_at(self, number: int) -> float:
        """Return the weight after `number` optimiser steps."""
        return self.weight * min(1.0, (number + 1) / max(1, self.warmup))
