"""What a `PatronusModule` adds to the denoising loss."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.modules.taking_back import TakenBack
from patronus_pl.prototypes import (
    decorrelation_loss,
    distinctness_loss,
    faithfulness_loss,
    kurtosis_loss,
    looking_loss,
    middle_means,
    sparsity_loss,
)
from patronus_pl.types import Image, SimilarityMap

HARD = 10.0
"""Temperature by which `looking` softens a hard maximum, which sends no gradient to the patches beside it."""


class Penalty(NamedTuple):
    """One term: weight · value."""

    name: str
    weight: float
    value: Float[Tensor, ""]


def of_activations(model: Any, everyone: Float[Tensor, "all m"], batch: dict[str, Any]) -> Iterator[Penalty]:
    """Those on what prototypes say, of which each that is on.

    Args:
        model: a `PatronusModule` in training, which imports this.
        everyone: activations of the batches of all ranks.
        batch: this rank's.
    """
    if model.decorrelation:
        value = decorrelation_loss(everyone, weights(model, batch), model.decorrelation_floor)
        yield Penalty("decorrelation", model.decorrelation, value)
    if model.kurtosis:
        yield Penalty("kurtosis", model.kurtosis * grown(model, model.kurtosis_warmup), kurtosis_loss(everyone))
    if model.distinctness:
        value = distinctness_loss(model.prototypes.vectors, model.distinctness_margin)
        yield Penalty("distinctness", model.distinctness, value)


def of_edits(model: Any, taken: TakenBack, similarity: SimilarityMap, before: Image, after: Image) -> Iterator[Penalty]:
    """Those on what becomes of a picture when one prototype is taken back, of which each that is on.

    Args:
        model: a `PatronusModule` in training.
        taken: what was taken back in which of the k images.
        similarity: (k, m, rows, cols) of the patches of the k images to the prototypes.
        before: (k, c, h, w) x̂_0 under the images' own activations.
        after: the same under those of `taken`.
    """
    share = grown(model, model.edit_warmup)
    if model.sparsity:
        value = (sparsity_loss(after - before) * taken.valid).mean()
        yield Penalty("sparsity", model.sparsity * share, value)
    if model.faithfulness:
        pictures = torch.cat([before, after]).clamp(-1, 1)
        was, now = model.standardised(model.prototypes(model.encoder(pictures))).chunk(2)
        # Only the picture and how it is read are to blame for the difference, not what was asked for.
        value = (faithfulness_loss(taken.change.detach(), now - was) * taken.valid).mean()
        yield Penalty("faithfulness", model.faithfulness * share, value)
    if model.looking:
        own = similarity[torch.arange(len(similarity), device=similarity.device), taken.prototype]
        change = (after - before).detach().square().sum(1)  # the prototype is to look at the change, not to move it
        effect = middle_means(change, model.encoder.receptive_field, (own.shape[1], own.shape[2])).sqrt()
        soft = model.prototypes.temperature or HARD
        value = (looking_loss(own, effect, soft) * taken.valid).mean()
        yield Penalty("looking", model.looking * share, value)


def weights(model: Any, batch: dict[str, Any]) -> Float[Tensor, " all"] | None:
    """Of the images of all ranks, under which the attributes to balance are independent; None for equal ones."""
    if model.balance is None:
        return None
    everyone: Tensor = model.all_ranks(model.balancing.weights(batch["attributes"]))
    return everyone


def grown(model: Any, warmup: int) -> float:
    """Share of a weight that grows over the first optimiser steps."""
    steps: int = model.trainer.global_step + 1
    return min(1.0, steps / max(1, warmup))
