"""`Looking`: a prototype looks at what it moves."""

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.objective.penalty import Penalty
from patronus_pl.objective.step import TrainingStep
from patronus_pl.prototypes import middle_means

HARD = 10.0
"""Temperature that softens a hard maximum, which sends no gradient to the patches beside it."""


def looking_loss(
    similarity: Float[Tensor, "b rows cols"], effect: Float[Tensor, "b rows cols"], temperature: float
) -> Float[Tensor, " b"]:
    """Return by how much similarity the best patch beats the best one in whose middle something moves.

    softmax_u sim(u) - softmax_u [sim(u) + log e(u) / max e], where softmax_u f = log Σ_u exp(τ f(u)) / τ ≥ max_u f.

    max e is at least 0.01, about a step of a byte: an effect that is not there yet has no largest place.

    Args:
        similarity: similarity of every patch to the prototype.
        effect: e ≥ 0 of the prototype on the middle of every patch, in units of x_0 ∈ [-1, 1].
        temperature: τ of the softmax, that of the pooling.
    """
    share = effect / effect.amax((1, 2), keepdim=True).clamp_min(1e-2)
    moving = similarity + share.clamp_min(1e-3).log()  # a patch that moves nothing is to lose, not to be -inf
    best, best_moving = ((temperature * f.flatten(1)).logsumexp(1) for f in (similarity, moving))
    return (best - best_moving) / temperature


class Looking(Penalty):
    """Penalise a prototype that looks past what it moves, see `looking_loss`.

    A pattern at the edge of a patch tells as much as one in its middle, and it is left to chance which of the patches
    that see a mouth a prototype learns. This prefers the one with the mouth in its middle.

    Args:
        weight: factor in the loss; 0 by default, since it is tried on planted faces only.
        warmup: optimiser steps over which the weight grows from 0.
    """

    name = "looking"
    judges_edits = True

    def __init__(self, weight: float = 0.0, warmup: int = 400) -> None:
        super().__init__(weight, warmup)

    def value(self, step: TrainingStep) -> Float[Tensor, ""]:
        """Return the mean over the edited images."""
        edit = step.edited
        own = edit.similarity[torch.arange(len(edit.similarity), device=edit.similarity.device), edit.prototype]
        # No gradient to the picture: the prototype is to look at the change, not to move it.
        change = (edit.after - edit.before).detach().square().sum(1)
        effect = middle_means(change, step.receptive_field, (own.shape[1], own.shape[2])).sqrt()
        return (looking_loss(own, effect, step.prototypes.temperature or HARD) * edit.valid).mean()
