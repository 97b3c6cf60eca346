"""`Faithfulness`: what an edit asks for is what the picture then shows, and no more."""

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.objective.penalty import Penalty
from patronus_pl.objective.step import TrainingStep


def faithfulness_loss(requested: Float[Tensor, "b m"], realised: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
    """Return Σ_j (Δŝ_j - Δs_j)² of every image: how far what it now shows is from what it was asked to show.

    It compares changes rather than states, so that blur that all pictures of a noise level share costs nothing.

    Args:
        requested: Δs, (b, m) change of the standardised activations that the picture is painted under.
        realised: Δŝ, (b, m) change of those that the encoder reads in the picture.
    """
    return (realised - requested).square().sum(1)


class Faithfulness(Penalty):
    """Penalise edits that are not followed in full, or that move other prototypes, see `faithfulness_loss`.

    Codes that need several prototypes to move together cannot be followed one at a time, so it also takes concepts
    apart.

    Args:
        weight: factor in the loss.
        warmup: optimiser steps over which the weight grows from 0.
    """

    name = "faithfulness"
    judges_edits = True

    def __init__(self, weight: float = 0.008, warmup: int = 400) -> None:
        super().__init__(weight, warmup)

    def value(self, step: TrainingStep) -> Float[Tensor, ""]:
        """Return the mean over the edited images."""
        edit = step.edited
        pictures = torch.cat([edit.before, edit.after]).clamp(-1, 1)
        was, now = step.read(pictures).chunk(2)
        # The picture and how it is read are to blame for the difference, not what was asked for: no gradient there.
        return (faithfulness_loss(edit.change.detach(), now - was) * edit.valid).mean()
