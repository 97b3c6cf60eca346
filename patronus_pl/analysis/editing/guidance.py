"""The guidance weight at which an edit arrives in full."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.editing.changes import chosen
from patronus_pl.analysis.editing.inverting import Inverted
from patronus_pl.analysis.editing.jobs import jobs
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion import Guidance, Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule

TRIED = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Weights that are tried one after the other, until an edit arrives in full; between them it is interpolated."""


@evaluating
def edit_slopes(
    model: PatronusModule,
    inverted: Inverted,
    prototypes: Sequence[int],
    sampling: Sampling = Sampling(),
    guidance: Guidance | None = None,
) -> Float[Tensor, " p"]:
    """Return how much of an edit through a prototype's range arrives, mean over the images; shape (p,).

    slope = (realised s_j at the high end - realised s_j at the low end) / (high - low); 1: in full, 0: no effect. NaN
    for a prototype whose range is empty. Costs 2 · n · p images, and twice that under guidance.

    Args:
        model: the model, with measured ranges.
        inverted: n images.
        prototypes: p indices.
        sampling: steps, sampler and batch size; the steps are those of the inversion.
        guidance: weight by which edits are exaggerated; None for no guidance.
    """
    ends = torch.stack([model.activation_low, model.activation_high], dim=1).cpu()[list(prototypes)]
    found = torch.zeros(len(ends), len(inverted.s))
    for job in jobs(inverted, prototypes, ends, sampling.batch_size, model.device):
        x = model.decode(job.x_T, job.s, sampling.steps, sampling.sampler, base=job.base, guidance=guidance)
        which = torch.tensor(prototypes)[job.prototype]
        read = model.encode(x).to(found).reshape(len(which), 2, -1)
        low, high = read[torch.arange(len(which)), :, which].unbind(1)
        found[job.prototype, job.image] = high - low
    span = ends[:, 1] - ends[:, 0]
    return found.mean(1) / span.where(span > 0, torch.nan)


@evaluating
def calibrate(
    model: PatronusModule,
    inverted: Inverted,
    prototypes: Sequence[int] | None = None,
    sampling: Sampling = Sampling(),
    largest: float = 8.0,
) -> Float[Tensor, " m"]:
    """Return for each prototype the guidance weight at which its edits arrive in full; shape (m,), on the CPU.

    Each prototype is tried at 1, 2, 4, ... until its slope (see `edit_slopes`) reaches 1 or no longer grows; between
    the last two weights the slope is taken for linear. A prototype whose edits never arrive in full gets the weight of
    its largest slope. Weights are never below 1, and 1 for prototypes that are not asked for. Costs 2 · n · p images
    for the first weight, and the time of 4 · n images for each further weight and prototype.

    Args:
        model: the model, with measured ranges.
        inverted: n images, a few held-out ones.
        prototypes: p indices; None for all.
        sampling: steps, sampler and batch size; the steps are those of the inversion.
        largest: the largest weight tried. At large weights pictures leave the range of images, and other prototypes
            move too.

    Raises:
        InvalidOptionError: no images, a prototype that does not exist, or a `largest` below 1.
    """
    if not len(inverted.s) or not largest >= 1:
        raise InvalidOptionError(
            f"guidance is to be found on {len(inverted.s)} images with weights up to {largest:g}; give at least one "
            "image, and a largest weight of 1 or more"
        )
    indices = chosen(model, prototypes)
    weights = [w for w in TRIED if w < largest] + [largest]
    slopes = torch.full((len(indices), len(weights)), torch.nan)
    going = torch.arange(len(indices))
    for k, w in enumerate(weights):
        if len(going):
            tried = [indices[i] for i in going]
            slopes[going, k] = edit_slopes(model, inverted, tried, sampling, None if w == 1 else w)
            going = going[(slopes[going, k] < 1) & (slopes[going, k] > slopes[going, :k].amax(1) if k else True)]
    found = torch.ones(model.prototypes.count)
    for j, row in zip(indices, slopes.tolist(), strict=True):
        found[j] = weight_in_full(weights, row)
    return found


def weight_in_full(weights: Sequence[float], slopes: Sequence[float]) -> float:
    """Return the weight at which the slope reaches 1, interpolated; if it never does, that of the largest slope.

    Args:
        weights: increasing weights.
        slopes: the slope at each; NaN where it was not measured. What follows a slope that did not grow is left out.

    >>> weight_in_full([1, 2, 4], [0.5, 0.75, 1.25])
    3.0
    >>> weight_in_full([1, 2, 4], [0.5, 0.6, 0.55]), weight_in_full([1, 2, 4], [1.1, np.nan, np.nan])
    (2.0, 1.0)
    """
    rising = 1 + next((k for k, step in enumerate(np.diff(slopes)) if not step > 0), len(slopes) - 1)
    return float(np.interp(1.0, np.nan_to_num(slopes[:rising]), weights[:rising]))
