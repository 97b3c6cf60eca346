"""`Sampling`: how images are drawn, in one argument."""

from dataclasses import dataclass
from typing import Literal

Sampler = Literal["ddpm", "ddim", "dpm++"]


@dataclass(frozen=True)
class Sampling:
    """How images are inverted and drawn.

    Attributes:
        steps: noise levels that a sampler or an inversion visits, of the schedule's T.
        sampler: `ddpm` (random), `ddim` (deterministic) or `dpm++` (DPM-Solver++(2M), the best in few steps).
        seed: seed of all noise.
        batch_size: images that pass the denoiser at a time; it changes memory and speed, not results.
    """

    steps: int = 20
    sampler: Sampler = "dpm++"
    seed: int = 0
    batch_size: int = 64
