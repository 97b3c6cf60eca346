"""What a report rests on: how much effort, all that was found, and `find`, which measures it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patronus_pl.analysis.attributes.reading import AttributeReading, best_attribute
from patronus_pl.analysis.editing.decoding import decode, encode
from patronus_pl.analysis.editing.guidance import calibrate
from patronus_pl.analysis.editing.inverting import invert
from patronus_pl.analysis.editing.jobs import turn_up
from patronus_pl.analysis.explain.census import Census, census
from patronus_pl.analysis.explain.consistency import Consistency, consistency
from patronus_pl.analysis.explain.faithfulness import UNUSED, Faithfulness, faithfulness
from patronus_pl.analysis.explain.patches import TopPatches, top_patches
from patronus_pl.analysis.explain.reconstruction import Reconstruction, reconstruct
from patronus_pl.analysis.explain.recovery import FEWEST, Recovery, recovery, spread_timesteps
from patronus_pl.analysis.explain.untrained import untrained
from patronus_pl.analysis.explain.use import TIMES, UseRatio, use_ratio
from patronus_pl.analysis.explain.what import What, what
from patronus_pl.analysis.explain.when import Emergence, emergence
from patronus_pl.analysis.explain.where import point_at_parts
from patronus_pl.analysis.progress import counting
from patronus_pl.analysis.protocol import FOLDS
from patronus_pl.analysis.ranges import set_ranges, unmeasured
from patronus_pl.analysis.subject import Subject
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import PointingGame, linear_probe, mean_image_error
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.types import Activations

RANDOM = 3
"""How often each image is reconstructed from random noise."""
BEST = 3
"""Of the candidate images, how many are kept for each prototype."""
IN_FULL = 0.95
"""Slope from which on an edit needs no guidance."""
CALIBRATED, LARGEST = 4, 4.0
"""Images on which guidance weights are found, and the largest weight that is tried."""
USED = 128
"""Images on which the use of s is measured, and of which the timed ones are chosen."""
NULL_IMAGES, NULL_PROTOTYPES, NULL_LEVELS = 3, 4, 3
"""Images, prototypes and values of each on which the untrained model is measured: it is about the same everywhere."""


@dataclass(frozen=True)
class Effort:
    """How much to measure. The defaults keep 30 prototypes of 32 × 32 pixels within two minutes on two cores.

    Attributes:
        edited: images in which every prototype is moved through its range; they are shown too.
        levels: values from the low to the high end of a prototype's range, at least 2.
        guided: images in which edits are shown under guidance, with the weight at which each arrives in full; 0, the
            default, shows them as they are. Guidance makes a report take about twice as long, and what arrives in full
            also moves other prototypes more. Weights are found on the last of the inverted images.
        candidates: images in which each prototype is turned up; those that show it best are kept.
        recovered: images on which is measured when a noisy image alone tells each prototype; at least 8. It needs a
            model that was trained with masks.
        noise_levels: noise levels at which this is measured, at least 2.
        timed: images on which emergence is timed: of the first 128, those in which prototypes have room to rise.
        instants: steps of sampling at which emergence is looked at; at least 2.
        measured: images that are reconstructed.
        patches: top patches a prototype, at least 2.
    """

    edited: int = 6
    levels: int = 5
    guided: int = 0
    candidates: int = 20
    recovered: int = 96
    noise_levels: int = 16
    timed: int = 4
    instants: int = 10
    measured: int = 24
    patches: int = 12

    @property
    def inverted(self) -> int:
        """How many images are inverted for edits and reconstructions: the first ones, which all of these share."""
        return max(self.edited, self.candidates, self.measured)

    def evaluations(self, prototypes: int, images: int, steps: int, levels: int = 0) -> int:
        """Count the images that pass the denoiser, for the progress bar.

        Those of the untrained model do not count, nor those of guidance, which depend on what is found.

        Args:
            prototypes: m.
            images: those of the subject.
            steps: steps of inversions and samplers.
            levels: noise levels at which recovery is measured; 0 for a model without masks.
        """
        counts = self.edited, self.candidates, self.timed, self.measured, self.inverted
        edited, candidates, timed, measured, inverted = (min(count, images) for count in counts)
        inversions = inverted * (steps + 1) + timed * (self.instants + 1)
        moved = prototypes * (max(edited, candidates) + edited * (self.levels - 1))
        sampled = (inverted + moved + measured * RANDOM) * steps
        timing = timed * self.instants * (1 + prototypes)
        told = min(self.recovered, images) * (levels + prototypes) if levels else 0
        return inversions + sampled + timing + told + 2 * len(TIMES) * min(USED, images)


@dataclass(frozen=True)
class Findings:
    """Everything that a report tells. The fields are what the functions of the same names return.

    Attributes:
        activations: (n, m) activations of all images.
        census: which prototypes are dead, duplicate or global.
        top: the patches that resemble each prototype most.
        consistency: how alike those patches are.
        reading: which prototype reads which attribute.
        probe: (a,) held-out AUROC of a linear probe on all prototypes; NaN where there is none.
        pointing: a pointing game for each attribute, by the centres of patches; empty if no parts are known.
        seeing: the same by the boxes of patches.
        use: whether the denoiser uses s.
        reconstruction: images decoded from inverted and from random noise.
        mean_image_error: mean squared error of the mean image, which is what one gets who knows nothing of an image.
        what: each prototype turned up, in the images where that shows best.
        faithfulness: how well pictures follow edits.
        guidance: (m,) weights under which edits arrive in full, see `calibrate`; 1 where none is needed, and for unused
            prototypes.
        guided: how well pictures follow edits under these weights, for the prototypes whose weight is above 1; None if
            there are none.
        untrained: the same for a model of this architecture before its first step.
        recovery: when the noisy image alone tells each prototype; None for a model without masks, and for few images.
        emergence: at which step the picture shows what was turned up.
    """

    activations: Activations
    census: Census
    top: TopPatches
    consistency: Consistency
    reading: AttributeReading
    probe: Float[Tensor, " a"]
    pointing: list[PointingGame]
    seeing: list[PointingGame]
    use: UseRatio
    reconstruction: Reconstruction
    mean_image_error: float
    what: What
    faithfulness: Faithfulness
    guidance: Float[Tensor, " m"]
    guided: Faithfulness | None
    untrained: Faithfulness
    recovery: Recovery | None
    emergence: Emergence

    @property
    def worth_keeping(self) -> Bool[Tensor, " m"]:
        """Return whether each prototype is live and used: it varies, and moving it changes the picture; shape (m,)."""
        return self.census.live & ~self.faithfulness.unused

    def edits(self, j: int) -> Float[Tensor, "n v c h w"]:
        """Return n images with a prototype at v values from low to high, under guidance where that is needed."""
        if self.guided is not None and j in self.guided.prototypes.tolist():
            return as_floats(self.guided.pictures[self.guided.prototypes.tolist().index(j)])
        return as_floats(self.faithfulness.pictures[j])

    @property
    def legibility(self) -> Float[Tensor, " m"]:
        """Return slope · (1 - leakage) · (2 AUROC - 1) of each prototype, shape (m,), in [0, 1].

        It is high for a prototype that moves when asked, moves alone and reads an attribute. Slope and leakage are
        clamped to [0, 1]; a prototype without a range has 0; without attributes the last factor is left out.
        """
        alone = 1 - self.faithfulness.leakage_mean.nan_to_num(0.0).clamp(0, 1)  # a single prototype cannot leak
        moved = (self.faithfulness.slope.clamp(0, 1) * alone).nan_to_num(0.0)
        read = (2 * self.reading.attribute_auroc - 1).nan_to_num(0.0)
        return moved * read if len(self.reading.names) else moved

    def by_legibility(self) -> list[int]:
        """Return all prototypes, the most legible first.

        The best reader of each attribute comes before all prototypes that read an attribute which another reads better.
        """
        order = self.legibility.argsort(descending=True, stable=True).tolist()
        attributes = [int(self.reading.attribute[j]) for j in order]
        first = [j for k, j in enumerate(order) if attributes[k] < 0 or attributes[k] not in attributes[:k]]
        return first + [j for j in order if j not in first]


# ---- measuring -------------------------------------------------------------------------------------------------------


def find(model: PatronusModule, subject: Subject, effort: Effort, sampling: Sampling) -> Findings:
    """Measure everything, with a progress bar.

    A model whose ranges were never measured, as an imported one, is given those of the subject's images.

    Raises:
        InvalidOptionError: fewer than two images.
    """
    n, size, seed = len(subject.images), sampling.batch_size, sampling.seed
    if n < 2:
        raise InvalidOptionError(f"a report on {n} image(s) says nothing of variation; give at least 2")
    levels = _noise_levels(model, n, effort)
    with counting(model.denoiser, effort.evaluations(model.prototypes.count, n, sampling.steps, levels)) as say:
        say("activations")
        activations = torch.cat([encode(model, batch["image"], size) for batch in _batches(subject, size)])
        if unmeasured(model):
            set_ranges(model, activations)
        say("patches")
        top = top_patches(model, _batches(subject, size), effort.patches, seed=seed)
        reading = best_attribute(activations, torch.from_numpy(subject.attributes), subject.attribute_names)
        pointing, seeing = _pointing(model, subject, reading, size)
        say("use of s")
        times = [t * model.schedule.timesteps // 1000 for t in TIMES]
        use = use_ratio(model, subject.first(USED), times, seed, size)
        edits = _edits(model, subject, effort, sampling, say)
        say("when")
        told = recovery(model, subject.first(effort.recovered), sampling, effort.noise_levels) if levels else None
        curves = _emergence(model, subject, activations, effort, sampling)
        say("untrained model")
        null = _untrained(model, subject, effort, sampling)
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
        **edits._asdict(),
        mean_image_error=mean_image_error(as_floats(batch["image"]) for batch in _batches(subject, size)),
        untrained=null,
        recovery=told,
        emergence=curves,
    )


def _noise_levels(model: PatronusModule, images: int, effort: Effort) -> int:
    """Return at how many noise levels recovery is measured: none without masks, or on too few images."""
    if model.masks is None or min(images, effort.recovered) < FEWEST:
        return 0
    return len(spread_timesteps(model.schedule, effort.noise_levels))


def _batches(subject: Subject, size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(subject.images), size):
        rows = slice(start, start + size)
        yield {"image": torch.from_numpy(np.ascontiguousarray(subject.images[rows])), "id": list(subject.ids[rows])}


class _Edited(NamedTuple):
    """What is found by decoding inverted images; the fields are those of `Findings`."""

    reconstruction: Reconstruction
    what: What
    faithfulness: Faithfulness
    guidance: Float[Tensor, " m"]
    guided: Faithfulness | None


def _edits(
    model: PatronusModule, subject: Subject, effort: Effort, sampling: Sampling, say: Callable[[str], None]
) -> _Edited:
    """Invert the first images once, and turn every prototype up in them once, for all that needs it."""
    say("inversion")
    inverted = invert(model, subject.first(effort.inverted), sampling)
    unedited = decode(model, inverted.x_T, inverted.s, sampling)
    say("reconstructions")
    k = effort.measured
    reconstruction = reconstruct(model, inverted.first(k), unedited[:k], sampling, RANDOM)
    say("what")
    k = max(effort.candidates, effort.edited)
    turned_up = turn_up(model, inverted.first(k), unedited[:k], None, sampling)
    turned = what(model, turned_up.first(effort.candidates), BEST, sampling.batch_size)
    say("edits")
    moved = faithfulness(model, turned_up.first(effort.edited), effort.levels, sampling, keep=effort.edited)
    say("guidance")
    weights = torch.ones(model.prototypes.count)
    short = torch.nonzero((moved.slope >= UNUSED) & (moved.slope < IN_FULL))[:, 0].tolist()
    if short and effort.guided:
        weights = calibrate(model, inverted.take(list(range(len(inverted.s)))[-CALIBRATED:]), short, sampling, LARGEST)
    which = torch.nonzero(weights > 1)[:, 0].tolist()
    guided = None
    if which:
        k = effort.guided
        up = turn_up(model, inverted.first(k), unedited[:k], which, sampling, weights)
        guided = faithfulness(model, up, effort.levels, sampling, keep=k)
    return _Edited(reconstruction, turned, moved, weights, guided)


def _emergence(
    model: PatronusModule, subject: Subject, activations: Activations, effort: Effort, sampling: Sampling
) -> Emergence:
    """Time edits in the images that have room for them; a step of these runs is an instant."""
    roomy = most_room(activations[:USED], model.activation_low, model.activation_high, effort.timed)
    steps = replace(sampling, steps=effort.instants)
    inverted = invert(model, subject.first(USED)[roomy], steps)
    return emergence(model, inverted, None, steps)


def most_room(s: Activations, low: Float[Tensor, " m"], high: Float[Tensor, " m"], count: int) -> list[int]:
    """Choose images in which, taken together, every prototype can be turned up: where it is high, no edit shows.

    One by one the image is taken that adds most to Σ_j √(room of j so far), where the room of prototype j in an image
    is the share of its range that lies above s_j.
    """
    room = ((high.cpu() - s) / (high - low).cpu().clamp_min(1e-12)).clamp(0, 1)
    found: list[int] = []
    for _ in range(min(count, len(s))):
        value = (room[found].sum(0) + room).sqrt().sum(1)
        value[found] = -1.0
        found.append(int(value.argmax()))
    return found


def _untrained(model: PatronusModule, subject: Subject, effort: Effort, sampling: Sampling) -> Faithfulness:
    """Measure the faithfulness of a model before its first step, for a few prototypes spread evenly over all."""
    fresh, count = untrained(model, subject.first(USED), sampling.seed, sampling.batch_size), model.prototypes.count
    which = sorted({count * k // NULL_PROTOTYPES for k in range(NULL_PROTOTYPES)})
    inverted = invert(fresh, subject.first(min(NULL_IMAGES, effort.edited)), sampling)
    unedited = decode(fresh, inverted.x_T, inverted.s, sampling)
    return faithfulness(fresh, turn_up(fresh, inverted, unedited, which, sampling), NULL_LEVELS, sampling)


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
