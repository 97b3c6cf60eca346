"""`Kurtosis`: each prototype a concept of its own, there or not."""

from jaxtyping import Float
from torch import Tensor

from patronus_pl.objective.penalty import Penalty
from patronus_pl.objective.step import TrainingStep
from patronus_pl.types import Activations


def kurtosis_loss(activations: Activations) -> Float[Tensor, ""]:
    """Return mean_j E[z_j⁴] - 1 over the batch, z the standardised activations; 0 if each is a fair coin.

    E[z⁴] is 1 for a fair coin, 1.8 for uniform and 3 for Gaussian values.
    """
    z = activations - activations.mean(0)
    z = z / z.std(0, correction=0).clamp_min(1e-4)  # a constant prototype stays at 0
    return z.pow(4).mean() - 1


class Kurtosis(Penalty):
    """Penalise the fourth moment of the activations, see `kurtosis_loss`.

    Any rotation of uncorrelated activations is uncorrelated, so each prototype may hold a bit of several concepts. The
    sum of independent concepts has a larger kurtosis than concepts that are there or not: the rotation with the least
    kurtosis gives each prototype a concept of its own (independent component analysis of sub-Gaussian sources; Comon
    1994, Hyvärinen & Oja 2000). It holds for concepts present in about a quarter to three quarters of the images.

    Args:
        weight: factor in the loss.
        warmup: optimiser steps over which the weight grows from 0: first learn what there is, then take it apart.
    """

    name = "kurtosis"

    def __init__(self, weight: float = 0.01, warmup: int = 2500) -> None:
        super().__init__(weight, warmup)

    def value(self, step: TrainingStep) -> Float[Tensor, ""]:
        """Return the penalty on the activations of all ranks."""
        return kurtosis_loss(step.activations)
