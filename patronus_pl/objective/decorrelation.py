"""`Decorrelation`: prototypes that can be moved one at a time."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.errors import InvalidOptionError
from patronus_pl.objective.balancing import Balance, check_names, columns_of
from patronus_pl.objective.penalty import Penalty
from patronus_pl.objective.step import TrainingStep
from patronus_pl.types import Activations


def correlation(activations: Activations, weights: Float[Tensor, " b"] | None = None) -> Float[Tensor, "m m"]:
    """Return the Pearson correlation between prototypes over the batch; 0 where a prototype is constant.

    With weights w_i ≥ 0, means are Σ_i w_i x_i / Σ_i w_i. If all weights are 0, so are all correlations.
    """
    if weights is None:
        centred, size = activations - activations.mean(0), activations.detach()
    else:
        w = (weights / weights.sum().clamp_min(1e-12))[:, None]
        centred, size = w.sqrt() * (activations - (w * activations).sum(0)), w.sqrt() * activations.detach()
    # Rounding leaves a constant column not quite constant: it must not be blown up to norm 1, nor 0 divided by 0.
    floor = 1e-5 * size.norm(dim=0) + 1e-12
    unit = centred / torch.maximum(centred.norm(dim=0), floor)
    products: Tensor = unit.T @ unit
    return products


def decorrelation_loss(
    activations: Activations, weights: Float[Tensor, " b"] | None = None, floor: float = 0.0
) -> Float[Tensor, ""]:
    """Return mean_j Σ_{k≠j} c_jk², where c_jk is by how much corr(s_j, s_k) over the batch lies outside [floor, 0].

    A single prototype gives 0.

    Args:
        activations: s of at least two images, (b, m).
        weights: weights of the images, ≥ 0; None weighs them equally.
        floor: in [-1, 0], the lowest correlation that costs nothing.
    """
    found = correlation(activations, weights)
    squared = (found - found.clamp(floor, 0.0)).square()
    return (squared.sum() - squared.diagonal().sum()) / activations.shape[1]


class Decorrelation(Penalty):
    """Penalise correlation between prototypes: mean_j Σ_{k≠j} c_jk², see `decorrelation_loss`.

    A redundant prototype cannot be moved alone: the others still say what was there.

    Args:
        weight: factor in the loss.
        warmup: optimiser steps over which the weight grows from 0.
        floor: in [-1, 0], the lowest correlation that costs nothing. Concepts that exclude each other are negatively
            correlated: three hair colours, one of which is there, have -½. To forbid that would ask for mixtures.
        balance: names of binary attributes that the data tie together. Images are then weighted so that these
            attributes are independent (see `balancing_weights`), and prototypes of one of them each cost nothing.

    Raises:
        InvalidOptionError: an option outside its range, or `balance` with a weight of 0.
    """

    name = "decorrelation"

    def __init__(
        self, weight: float = 0.02, warmup: int = 0, floor: float = -0.2, balance: list[str] | None = None
    ) -> None:
        super().__init__(weight, warmup)
        if not -1 <= floor <= 0:
            raise InvalidOptionError(f"objective.decorrelation.floor is {floor}; a correlation in [-1, 0] is wanted")
        if balance is not None:
            check_names(balance)
            if not weight:
                raise InvalidOptionError(
                    "objective.decorrelation.balance is of no use while objective.decorrelation.weight is 0; raise it"
                )
        self.floor, self.balance = floor, balance
        self.balancing: Balance | None = None

    def prepare(self, names: Sequence[str], attributes: Callable[[], Float[Tensor, "n a"]]) -> None:
        """Count how often the attributes to balance occur together in the training data.

        Args:
            names: names of all attributes of the data.
            attributes: Return the (n, a) attributes of the training images; called only if there is something to count.
        """
        if self.balance is not None:
            self.balancing = Balance.of(columns_of(self.balance, names), attributes())

    def value(self, step: TrainingStep) -> Float[Tensor, ""]:
        """Return the penalty on the activations of all ranks."""
        weights = None
        if self.balancing is not None and step.attributes is not None:
            weights = self.balancing.weights(step.attributes)
        return decorrelation_loss(step.activations, weights, self.floor)
