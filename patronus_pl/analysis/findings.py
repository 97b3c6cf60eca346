"""Everything that the report tells of a model, measured in one pass over some images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from patronus_pl.analysis.census import AttributeReading, Census, Consistency, best_attribute, census, consistency
from patronus_pl.analysis.edit import encode
from patronus_pl.analysis.faithfulness import (
    Faithfulness,
    Reconstruction,
    UseRatio,
    faithfulness,
    reconstruct,
    use_ratio,
)
from patronus_pl.analysis.when import Emergence, emergence
from patronus_pl.analysis.where import TopPatches, as_floats, point_at_parts, top_patches
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import PointingGame, linear_probe
from patronus_pl.modules import PatronusModule
from patronus_pl.modules.patronus import Sampler
from patronus_pl.types import Activations, Image

FOLDS = 5


@dataclass(frozen=True)
class Subject:
    """The images that a model is explained with, and what is known of them.

    Attributes:
        images: (n, c, h, w) bytes; a memory map will do. The first ones are shown and edited.
        attributes: (n, a) of 0, 1 and NaN (unknown); a may be 0.
        ids: n names.
        attribute_names: a names.
        attribute_kind: a of `local`, `global`, `unknown`; or none.
        description: what decides the images, as `ImageDataModule.describe` gives it.
        masks: (k, a, h, w) the part that shows each attribute in the first k images, empty for an attribute that has no
            part; None if no parts are known.
    """

    images: UInt8[np.ndarray, "n c h w"]
    attributes: Float[np.ndarray, "n a"]
    ids: Sequence[str]
    attribute_names: Sequence[str] = ()
    attribute_kind: Sequence[str] = ()
    description: dict[str, Any] = field(default_factory=dict)
    masks: Bool[np.ndarray, "k a h w"] | None = None

    def first(self, count: int) -> Image:
        """The first images, in [-1, 1]."""
        return as_floats(torch.from_numpy(np.ascontiguousarray(self.images[:count])))


@dataclass(frozen=True)
class Effort:
    """How much to measure. The defaults keep 30 prototypes of 32 × 32 pixels within two minutes on two cores.

    Attributes:
        edited: images whose prototypes are moved, and shown.
        levels: values from the low to the high end of a prototype's range, at least 2.
        timed: images on which emergence is timed.
        measured: images that are reconstructed.
        patches: top patches a prototype, at least 2.
        steps: of inversion and samplers.
        sampler: of reconstructions and edits.
        seed: of all noise and resampling.
        batch_size: images at a time.
    """

    edited: int = 8
    levels: int = 5
    timed: int = 6
    measured: int = 24
    patches: int = 12
    steps: int = 20
    sampler: Sampler = "dpm++"
    seed: int = 0
    batch_size: int = 64

    def evaluations(self, prototypes: int, images: int) -> int:
        """How often the denoiser will see an image."""
        edited, timed, measured = (min(count, images) for count in (self.edited, self.timed, self.measured))
        inversions = (edited + timed + measured) * (self.steps + 1)
        sampled = edited * (prototypes * self.levels + 1) + timed * (prototypes + 1) + measured * (1 + RANDOM)
        return inversions + sampled * self.steps + 2 * len(TIMES) * min(USED, images)


RANDOM = 3
"""Random x_T a reconstruction."""
TIMES = (200, 400, 600)
"""Of a thousand: where the use of s is measured."""
USED = 128
"""Images on which it is measured."""


@dataclass(frozen=True)
class Findings:
    """What was found; see the functions of the same names.

    Attributes:
        activations: (n, m) of all images.
        census: dead, duplicate, global.
        top: the patches that resemble each prototype most.
        consistency: of those patches.
        reading: which prototype reads which attribute.
        probe: (a,) held-out AUROC of a linear probe on all prototypes; NaN where there is none.
        pointing: a pointing game an attribute; empty if no parts are known.
        use: is s used?
        reconstruction: with inverted and random noise.
        mean_image_error: mean squared error of the mean image: what knowing nothing of an image costs.
        faithfulness: of edits.
        emergence: in time.
    """

    activations: Activations
    census: Census
    top: TopPatches
    consistency: Consistency
    reading: AttributeReading
    probe: Float[Tensor, " a"]
    pointing: list[PointingGame]
    use: UseRatio
    reconstruction: Reconstruction
    mean_image_error: float
    faithfulness: Faithfulness
    emergence: Emergence

    @property
    def legibility(self) -> Float[Tensor, " m"]:
        """(m,) slope of the edit, held in [0, 1], times how far above chance the best attribute is read; 0 if unmoved.

        Without attributes the slope alone.
        """
        slope = self.faithfulness.slope.clamp(0, 1).nan_to_num(0.0)
        read = (2 * self.reading.attribute_auroc - 1).nan_to_num(0.0)
        return slope * read if len(self.reading.names) else slope

    def by_legibility(self) -> list[int]:
        """Prototypes, the most legible first; of several that read one attribute, the best comes before all others."""
        order = self.legibility.argsort(descending=True, stable=True).tolist()
        attributes = [int(self.reading.attribute[j]) for j in order]
        first = [j for k, j in enumerate(order) if attributes[k] < 0 or attributes[k] not in attributes[:k]]
        return first + [j for j in order if j not in first]


def find(model: PatronusModule, subject: Subject, effort: Effort) -> Findings:
    """Measure everything, with a progress bar.

    Raises:
        InvalidOptionError: too few images.
    """
    n = len(subject.images)
    if n < 2:
        raise InvalidOptionError(f"a report on {n} image(s) says nothing of variation; give at least 2")
    bs, steps = effort.batch_size, effort.steps
    with counting(model.denoiser, effort.evaluations(model.prototypes.count, n)) as say:
        say("activations")
        activations, error = _activations(model, subject, bs)
        say("patches")
        top = top_patches(model, _batches(subject, bs), effort.patches, seed=effort.seed)
        reading = best_attribute(activations, torch.from_numpy(subject.attributes), subject.attribute_names)
        times = [t * model.schedule.timesteps // 1000 for t in TIMES]
        say("use of s")
        use = use_ratio(model, subject.first(USED), times, effort.seed, bs)
        say("reconstructions")
        measured = subject.first(effort.measured)
        reconstruction = reconstruct(model, measured, steps, RANDOM, effort.sampler, effort.seed, bs)
        say("edits")
        edited = subject.first(effort.edited)
        moved = faithfulness(model, edited, None, effort.levels, steps, effort.sampler, bs, keep=effort.edited)
        say("emergence")
        timed = emergence(model, edited[: effort.timed], None, steps, bs)
    return Findings(
        activations=activations,
        census=census(activations, model.prototypes.vectors.detach(), top.spread),
        top=top,
        consistency=consistency(top.features, top.random_features, effort.seed),
        reading=reading,
        probe=_probe(activations, subject, effort.seed),
        pointing=_pointing(model, subject, reading, bs),
        use=use,
        reconstruction=reconstruction,
        mean_image_error=error,
        faithfulness=moved,
        emergence=timed,
    )


@contextmanager
def counting(denoiser: nn.Module, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar over images that pass the denoiser, where nearly all the time goes; yields what sets its label."""
    with tqdm(total=total, unit="img", unit_scale=True, smoothing=0.05) as bar:

        def count(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            bar.update(len(inputs[0]))

        hook = denoiser.register_forward_hook(count)
        try:
            yield bar.set_description
        finally:
            hook.remove()


def _batches(subject: Subject, size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(subject.images), size):
        rows = slice(start, start + size)
        yield {"image": torch.from_numpy(np.ascontiguousarray(subject.images[rows])), "id": list(subject.ids[rows])}


def _activations(model: PatronusModule, subject: Subject, batch_size: int) -> tuple[Activations, float]:
    """Of all images, and the error of their mean: E x² - (E x)², a pixel each, averaged."""
    rows, first, second = [], torch.zeros(()), torch.zeros(())
    for batch in _batches(subject, batch_size):
        x = as_floats(batch["image"])
        rows.append(encode(model, x, batch_size))
        first, second = first + x.double().sum(0), second + x.double().square().sum(0)
    n = len(subject.images)
    return torch.cat(rows), float((second / n - (first / n).square()).mean())


def _probe(activations: Activations, subject: Subject, seed: int) -> Float[Tensor, " a"]:
    y = subject.attributes
    if len(y) < FOLDS or not ((y == 0).any(0) & (y == 1).any(0)).any():
        return torch.full((y.shape[1],), torch.nan)
    return torch.from_numpy(linear_probe(activations, y, FOLDS, seed).per_attribute).float()


def _pointing(
    model: PatronusModule, subject: Subject, reading: AttributeReading, batch_size: int
) -> list[PointingGame]:
    if subject.masks is None:
        return []
    k = len(subject.masks)
    attributes, masks = torch.from_numpy(subject.attributes[:k]), torch.from_numpy(subject.masks)
    best, signs = reading.prototype.tolist(), reading.prototype_sign.tolist()
    return point_at_parts(model, subject.first(k), attributes, masks, best, signs, batch_size)
