"""What a report rests on: which images, how much effort, and all that was found."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.attributes.reading import AttributeReading
from patronus_pl.analysis.explain.census import Census
from patronus_pl.analysis.explain.consistency import Consistency
from patronus_pl.analysis.explain.faithfulness import Faithfulness
from patronus_pl.analysis.explain.patches import TopPatches
from patronus_pl.analysis.explain.reconstruction import Reconstruction
from patronus_pl.analysis.explain.survival import Commitment
from patronus_pl.analysis.explain.use import TIMES, UseRatio
from patronus_pl.analysis.explain.what import What
from patronus_pl.analysis.explain.when import Emergence
from patronus_pl.diffusion.sampling import Sampler
from patronus_pl.metrics import PointingGame
from patronus_pl.types import Activations


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
