"""`Sparsity`: a prototype changes little of the picture."""

from jaxtyping import Float
from torch import Tensor

from patronus_pl.objective.penalty import Penalty
from patronus_pl.objective.step import TrainingStep


def sparsity_loss(change: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Return mean_p √(Σ_c change_c(p)² + δ²) of every image: over how much of it one prototype has its effect.

    It adds up magnitudes over places, not squares. If two prototypes share two things between them, either changes both
    places by 1/√2 each, and together they pay √2 times as much as prototypes of one thing each.

    Args:
        change: change of the predicted image as one prototype is taken back, in units of x_0 ∈ [-1, 1].
    """
    return (change.square().sum(1) + 1e-4).sqrt().mean((-2, -1))  # δ = 0.01, about a step of a byte in each channel


class Sparsity(Penalty):
    """Penalise how much of the picture changes as one prototype is taken back, see `sparsity_loss`.

    Args:
        weight: factor in the loss.
        warmup: optimiser steps over which the weight grows from 0.
    """

    name = "sparsity"
    judges_edits = True

    def __init__(self, weight: float = 0.15, warmup: int = 400) -> None:
        super().__init__(weight, warmup)

    def value(self, step: TrainingStep) -> Float[Tensor, ""]:
        """Return the mean over the edited images."""
        edit = step.edited
        return (sparsity_loss(edit.after - edit.before) * edit.valid).mean()
