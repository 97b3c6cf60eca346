"""`EvaluationPlan`: how much an evaluation measures, and how its images are drawn; with the two presets."""

from dataclasses import dataclass, replace

from patronus_pl.analysis.protocol import Section
from patronus_pl.diffusion.sampling import Sampler, Sampling


@dataclass(frozen=True)
class SamplingChanges:
    """What to change of a preset's sampling; a field that is None stays as the preset has it.

    Attributes:
        steps: number of noise levels that a sampler or an inversion visits.
        sampler: `ddim` or `dpm++`.
        seed: seed of all noise, and also of folds and resampling.
        batch_size: images that pass the denoiser at a time.
    """

    steps: int | None = None
    sampler: Sampler | None = None
    seed: int | None = None
    batch_size: int | None = None

    def applied_to(self, preset: Sampling) -> Sampling:
        """Return the preset's sampling with these changes."""
        return replace(preset, **{name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class EvaluationPlan:
    """How much is measured, and how.

    Attributes:
        images: number of generated images, from `s` of test images (which serve in turn, if they are fewer).
        reference: number of test images that these are compared with, the first ones; None for all.
        inverted: number of test images that are decoded from inverted noise.
        latents: number of training images whose activations are probed, and from which the judge learns.
        subsets: number of random subsets of the kernel distance.
        sampling: how images are inverted and drawn; its seed is also that of folds and resampling.
    """

    images: int = 1000
    reference: int | None = 2000
    inverted: int = 64
    latents: int = 10_000
    subsets: int = 20
    sampling: Sampling = Sampling()

    def sampler_protocol(self) -> Section:
        """Return the part of the protocol that says how images were drawn."""
        sampling = self.sampling
        return {"sampler": sampling.sampler, "steps": sampling.steps, "eta": 0, "clip": True, "seed": sampling.seed}


PRESETS = {
    "quick": EvaluationPlan(),
    "paper": EvaluationPlan(10_000, None, inverted=500, subsets=100, sampling=Sampling(steps=1000, sampler="ddim")),
}
"""`quick` takes minutes on a CPU; `paper` is the protocol of the published numbers: 10,000 images, 1000 DDIM steps."""
