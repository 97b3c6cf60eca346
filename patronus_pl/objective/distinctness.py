"""`Distinctness`: the paper's optional penalty on prototypes that are nearly the same vector."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from patronus_pl.objective.penalty import Penalty
from patronus_pl.objective.step import TrainingStep


def distinctness_loss(prototypes: Float[Tensor, "m d"], margin: float) -> Float[Tensor, ""]:
    """Return mean_i max(0, δ - min_{j≠i}(1 - |cos(p_i, p_j)|)) (Weng et al. 2026).

    Args:
        prototypes: the m vectors p_j.
        margin: δ in (0, 1]; the paper tries 0.2, 0.5 and 1.
    """
    if len(prototypes) < 2:
        return prototypes.sum() * 0.0
    unit = F.normalize(prototypes, dim=1)
    similarity = (unit @ unit.T).abs()
    # A prototype is never its own neighbour.
    nearest = similarity.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), 0.0).amax(1)
    return (margin - (1 - nearest)).clamp_min(0).mean()


class Distinctness(Penalty):
    """Penalise prototypes whose directions are closer than a margin, see `distinctness_loss`.

    Args:
        weight: factor in the loss; 0 by default, as in the paper.
        warmup: optimiser steps over which the weight grows from 0.
        margin: δ in (0, 1], the least distance 1 - |cos| between two prototypes that costs nothing.
    """

    name = "distinctness"

    def __init__(self, weight: float = 0.0, warmup: int = 0, margin: float = 0.2) -> None:
        super().__init__(weight, warmup)
        self.margin = margin

    def value(self, step: TrainingStep) -> Float[Tensor, ""]:
        """Return the penalty on the prototypes' vectors."""
        return distinctness_loss(step.prototypes.vectors, self.margin)
