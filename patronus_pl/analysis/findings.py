"""What a report rests on: which images, how much effort, and all that was found."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from patronus_pl.analysis.census import AttributeReading, Census, Consistency
from patronus_pl.analysis.faithfulness import Faithfulness, Reconstruction, UseRatio
from patronus_pl.analysis.patches import TopPatches
from patronus_pl.analysis.survival import Commitment
from patronus_pl.analysis.what import What
from patronus_pl.analysis.when import Emergence
from patronus_pl.analysis.where import as_floats
from patronus_pl.metrics import PointingGame
from patronus_pl.modules.patronus import Sampler
from patronus_pl.types import Activations, Image

FOLDS = 5
"""Of a linear probe."""
MASKED = 512
"""Images whose parts are looked at."""


@runtime_checkable  # the tests check types at run time
class ImageSource(Protocol):
    """What `Subject.of` asks of the data: an `ImageDataModule`, which this folder does not import."""

    @property
    def attribute_names(self) -> Sequence[str]:
        """Of all attributes."""

    @property
    def attribute_kind(self) -> Sequence[str]:
        """Of each attribute: `local`, `global`, `unknown`."""

    def table(self, split: str) -> Any:
        """Images, attributes and ids."""

    def describe(self) -> dict[str, Any]:
        """What decides the images."""

    def attribute_masks(self, split: str, rows: Int[np.ndarray, " k"]) -> Bool[np.ndarray, "k a h w"] | None:
        """The part that shows each attribute; None where no parts are known."""


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

    @classmethod
    def of(cls, data: ImageSource, split: str, n: int | None = None) -> "Subject":
        """The first n images of a split (None: all), with what the data know of them."""
        table = data.table(split)
        rows = np.arange(len(table) if n is None else min(n, len(table)))
        return cls(
            images=table.images if len(rows) == len(table) else table.subset(rows).images,  # a subset is a copy
            attributes=table.attributes[rows],
            ids=table.ids[: len(rows)],
            attribute_names=data.attribute_names,
            attribute_kind=data.attribute_kind,
            description={**data.describe(), "split": split},
            masks=data.attribute_masks(split, rows[:MASKED]),
        )

    def first(self, count: int) -> Image:
        """The first images, in [-1, 1]."""
        return as_floats(torch.from_numpy(np.ascontiguousarray(self.images[:count])))


@dataclass(frozen=True)
class Effort:
    """How much to measure. The defaults keep 30 prototypes of 32 × 32 pixels within two minutes on two cores.

    Attributes:
        edited: images whose prototypes are moved, and shown.
        levels: values from the low to the high end of a prototype's range, at least 2.
        candidates: images in which each prototype is turned up; those that show it best are kept.
        timed: images on which emergence is timed: of the first ones, those in which prototypes have room to rise.
        instants: timesteps at which emergence is looked at, and an edit is taken back; at least 2.
        measured: images that are reconstructed.
        patches: top patches a prototype, at least 2.
        steps: of inversion and samplers, but for emergence, where they are the instants.
        sampler: of reconstructions and edits.
        seed: of all noise and resampling.
        batch_size: images at a time.
    """

    edited: int = 6
    levels: int = 5
    candidates: int = 20
    timed: int = 4
    instants: int = 10
    measured: int = 24
    patches: int = 12
    steps: int = 20
    sampler: Sampler = "dpm++"
    seed: int = 0
    batch_size: int = 64

    def evaluations(self, prototypes: int, images: int) -> int:
        """How often the denoiser will see an image."""
        counts = self.edited, self.candidates, self.timed, self.measured
        edited, candidates, timed, measured = (min(count, images) for count in counts)
        inversions = (edited + candidates + measured) * (self.steps + 1) + 2 * timed * (self.instants + 1)
        turned = candidates * (prototypes + 1) + prototypes * min(BEST, candidates)
        moved = edited * (prototypes * self.levels + 1)
        timing = timed * ((prototypes + 2) + prototypes * self.instants)
        sampled = (turned + moved + measured * (1 + RANDOM)) * self.steps + timing * self.instants
        return inversions + sampled + 2 * len(TIMES) * min(USED, images)


RANDOM = 3
"""Random x_T a reconstruction."""
BEST = 3
"""Of the candidates: how many are kept a prototype."""
TIMES = (200, 400, 600)
"""Of a thousand: where the use of s is measured."""
USED = 128
"""Images on which it is measured."""
READ = 0.75
"""AUROC from which on a prototype may be named after an attribute, and after its part."""


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
        pointing: a pointing game an attribute, by the centres of patches; empty if no parts are known.
        seeing: the same by their boxes.
        use: is s used?
        reconstruction: with inverted and random noise.
        mean_image_error: mean squared error of the mean image: what knowing nothing of an image costs.
        what: each prototype turned up, in the images where that shows best.
        faithfulness: of edits.
        untrained: the same for a model of this architecture before its first step.
        emergence: when the picture shows what was turned up.
        commitment: when that is decided.
        area: (m,) share of the image that the part covers whose attribute a prototype reads; NaN where no part is
            known, or the prototype reads it worse than `READ`.
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
    untrained: Faithfulness
    emergence: Emergence
    commitment: Commitment
    area: Float[Tensor, " m"]

    @property
    def legibility(self) -> Float[Tensor, " m"]:
        """(m,) slope · (1 - leakage) · (2 AUROC - 1): moves when asked, alone, and reads an attribute; 0 if unmoved.

        Slope and leakage are held in [0, 1]; the last factor, of the best attribute, is left out if there are none.
        """
        alone = 1 - self.faithfulness.leakage_mean.nan_to_num(0.0).clamp(0, 1)  # a single one cannot leak
        moved = (self.faithfulness.slope.clamp(0, 1) * alone).nan_to_num(0.0)
        read = (2 * self.reading.attribute_auroc - 1).nan_to_num(0.0)
        return moved * read if len(self.reading.names) else moved

    def by_legibility(self) -> list[int]:
        """Prototypes, the most legible first; of several that read one attribute, the best comes before all others."""
        order = self.legibility.argsort(descending=True, stable=True).tolist()
        attributes = [int(self.reading.attribute[j]) for j in order]
        first = [j for k, j in enumerate(order) if attributes[k] < 0 or attributes[k] not in attributes[:k]]
        return first + [j for j in order if j not in first]


@contextmanager
def counting(denoiser: nn.Module, total: int, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """A progress bar over images that pass the denoiser, where nearly all the time goes; yields what sets its label."""
    with tqdm(total=total, unit="img", unit_scale=True, smoothing=0.05, disable=not shown) as bar:

        def count(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            bar.update(len(inputs[0]))

        hook = denoiser.register_forward_hook(count)
        try:
            yield bar.set_description
        finally:
            hook.remove()
