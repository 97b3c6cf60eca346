"""`find`: everything that the report tells of a model, measured in one pass over some images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.attributes.reading import AttributeReading, best_attribute
from patronus_pl.analysis.editing.decoding import encode
from patronus_pl.analysis.explain.census import census
from patronus_pl.analysis.explain.consistency import consistency
from patronus_pl.analysis.explain.faithfulness import Faithfulness, faithfulness
from patronus_pl.analysis.explain.patches import top_patches
from patronus_pl.analysis.explain.reconstruction import reconstruct
from patronus_pl.analysis.explain.survival import commitment
from patronus_pl.analysis.explain.untrained import untrained
from patronus_pl.analysis.explain.use import TIMES, use_ratio
from patronus_pl.analysis.explain.what import what
from patronus_pl.analysis.explain.when import emergence
from patronus_pl.analysis.explain.where import point_at_parts
from patronus_pl.analysis.progress import counting
from patronus_pl.analysis.protocol import FOLDS
from patronus_pl.analysis.ranges import set_ranges, unmeasured
from patronus_pl.analysis.report.findings import BEST, RANDOM, READ, USED, Effort, Findings
from patronus_pl.analysis.subject import Subject
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import PointingGame, linear_probe, mean_image_error
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.types import Activations

NULL_IMAGES, NULL_PROTOTYPES = 4, 8
"""A model that knows nothing is the same everywhere: few of both tell it."""


def find(model: PatronusModule, subject: Subject, effort: Effort) -> Findings:
    """Measure everything, with a progress bar.

    A model whose ranges were never measured, as an imported one, is given those of the subject's images.

    Raises:
        InvalidOptionError: too few images.
    """
    n = len(subject.images)
    if n < 2:
        raise InvalidOptionError(f"a report on {n} image(s) says nothing of variation; give at least 2")
    bs, steps, sampler, seed = effort.batch_size, effort.steps, effort.sampler, effort.seed
    with counting(model.denoiser, effort.evaluations(model.prototypes.count, n)) as say:
        say("activations")
        activations = torch.cat([encode(model, batch["image"], bs) for batch in _batches(subject, bs)])
        if unmeasured(model):
            set_ranges(model, activations)
        say("patches")
        top = top_patches(model, _batches(subject, bs), effort.patches, seed=seed)
        reading = best_attribute(activations, torch.from_numpy(subject.attributes), subject.attribute_names)
        times = [t * model.schedule.timesteps // 1000 for t in TIMES]
        pointing, seeing = _pointing(model, subject, reading, bs)
        say("use of s")
        use = use_ratio(model, subject.first(USED), times, seed, bs)
        say("reconstructions")
        reconstruction = reconstruct(model, subject.first(effort.measured), steps, RANDOM, sampler, seed, bs)
        say("what")
        turned = what(model, subject.first(effort.candidates), None, BEST, steps, sampler, bs)
        say("edits")
        edited = subject.first(effort.edited)
        moved = faithfulness(model, edited, None, effort.levels, steps, sampler, bs, keep=effort.edited)
        say("when")
        roomy = most_room(activations[:USED], model.activation_low, model.activation_high, effort.timed)
        timed, instants = subject.first(USED)[roomy], effort.instants
        curves = emergence(model, timed, None, instants, bs)
        decided = commitment(model, timed, None, instants, instants, bs)
        say("null")
        null = _null(model, subject, effort)
    return Findings(
        activations=activations,
        census=census(activations, model.prototypes.vectors.detach(), top.spread),
        top=top,
        consistency=consistency(top.features, top.random_features, seed),
        reading=reading,
        probe=_probe(activations, subject, seed),
        pointing=pointing,
        seeing=seeing,
        use=use,
        reconstruction=reconstruction,
        mean_image_error=mean_image_error(as_floats(batch["image"]) for batch in _batches(subject, bs)),
        what=turned,
        faithfulness=moved,
        untrained=null,
        emergence=curves,
        commitment=decided,
        area=_area(subject, reading),
    )


def _batches(subject: Subject, size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(subject.images), size):
        rows = slice(start, start + size)
        yield {"image": torch.from_numpy(np.ascontiguousarray(subject.images[rows])), "id": list(subject.ids[rows])}


def most_room(s: Activations, low: Float[Tensor, " m"], high: Float[Tensor, " m"], count: int) -> list[int]:
    """Images in which, taken together, every prototype can be turned up: no edit shows where it is high already.

    One by one the image that adds most to Σ_j √(room of j so far), room being the share of its range that is above s_j.
    """
    room = ((high.cpu() - s) / (high - low).cpu().clamp_min(1e-12)).clamp(0, 1)
    found: list[int] = []
    for _ in range(min(count, len(s))):
        value = (room[found].sum(0) + room).sqrt().sum(1)
        value[found] = -1.0
        found.append(int(value.argmax()))
    return found


def _null(model: PatronusModule, subject: Subject, effort: Effort) -> Faithfulness:
    """The faithfulness card of a model before its first step, for prototypes spread over all."""
    fresh, count = untrained(model, subject.first(USED), effort.seed, effort.batch_size), model.prototypes.count
    which = sorted({count * k // NULL_PROTOTYPES for k in range(NULL_PROTOTYPES)})
    few = subject.first(min(NULL_IMAGES, effort.edited))
    return faithfulness(fresh, few, which, effort.levels, effort.steps, effort.sampler, effort.batch_size)


def _probe(activations: Activations, subject: Subject, seed: int) -> Float[Tensor, " a"]:
    y = subject.attributes
    if len(y) < FOLDS or not ((y == 0).any(0) & (y == 1).any(0)).any():
        return torch.full((y.shape[1],), torch.nan)
    return torch.from_numpy(linear_probe(activations, y, FOLDS, seed).per_attribute).float()


def _pointing(
    model: PatronusModule, subject: Subject, reading: AttributeReading, batch_size: int
) -> tuple[list[PointingGame], list[PointingGame]]:
    if subject.masks is None:
        return [], []
    k = len(subject.masks)
    attributes, masks = torch.from_numpy(subject.attributes[:k]), torch.from_numpy(subject.masks)
    best, signs = reading.prototype.tolist(), reading.prototype_sign.tolist()
    return point_at_parts(model, subject.first(k), attributes, masks, best, signs, batch_size)


def _area(subject: Subject, reading: AttributeReading) -> Float[Tensor, " m"]:
    """Mean share of the image, where it is visible, of the part that each prototype speaks of."""
    unknown = torch.full((len(reading.attribute),), torch.nan)
    if subject.masks is None or not len(reading.names):
        return unknown
    shares = torch.from_numpy(subject.masks).float().mean((2, 3))
    of_part = shares.where(shares > 0, torch.nan).nanmean(0)
    return of_part[reading.attribute].where((reading.attribute >= 0) & (reading.attribute_auroc >= READ), unknown)
