"""How many bits a condition tells about an image, at which noise level, and in which pixels.

Notation: α = log SNR = log ᾱ/(1-ᾱ), in nats; ε̂ and ε̂' are the predicted noise without and with the condition y.
The chain rule of mutual information and its derivative by the signal-to-noise ratio (Guo et al. 2005; Kong et al. 2023,
"Information-theoretic diffusion"; 2024, "Interpretable diffusion via information decomposition") give

    I(x_0; y) = ½ ∫ E‖ε̂ - ε̂'‖² dα = ½ ∫ E[‖ε - ε̂‖² - ‖ε - ε̂'‖²] dα

for ideal denoisers, which name posterior means. For others the two integrals differ, and neither is a bound.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.explain.recovery import spread_timesteps
from patronus_pl.diffusion import NoiseSchedule, NoiseSource
from patronus_pl.errors import InvalidOptionError
from patronus_pl.types import Image

PredictNoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) → ε̂, the predicted noise; t is int64 of shape (b,)."""


@dataclass(frozen=True)
class Information:
    """What `information` found at k noise levels. All on the CPU.

    Attributes:
        log_snr: (k,) α of the levels, increasing. Bits are told between the first and the last of them, no further.
        density: (k,) ½ E‖ε̂ - ε̂'‖², nats per unit of α, mean over the batch.
        density_by_error: (k,) ½ E[‖ε - ε̂‖² - ‖ε - ε̂'‖²]: the same for ideal denoisers; it may be negative.
        map: (h, w) bits of every pixel; they add up to `bits`.
    """

    log_snr: Float[Tensor, " k"]
    density: Float[Tensor, " k"]
    density_by_error: Float[Tensor, " k"]
    map: Float[Tensor, "h w"]

    @property
    def bits(self) -> float:
        """Integral of the density, in bits."""
        return float(torch.trapezoid(self.density, self.log_snr)) / math.log(2)

    @property
    def bits_by_error(self) -> float:
        """Integral of the difference of errors, in bits; of either sign."""
        return float(torch.trapezoid(self.density_by_error, self.log_snr)) / math.log(2)

    def quantile(self, share: float) -> float:
        """Return the log-SNR at which a share of the bits is told, counted from the noisy end; NaN if there are none.

        Args:
            share: in [0, 1].

        Raises:
            InvalidOptionError: a share outside [0, 1].
        """
        if not 0 <= share <= 1:
            raise InvalidOptionError(f"share is {share}; choose 0 to 1")
        told = torch.cat([torch.zeros(1), torch.cumulative_trapezoid(self.density, self.log_snr)])
        if told[-1] <= 0:
            return math.nan
        level = share * told[-1]
        i = max(1, int(torch.searchsorted(told, level)))
        part = (level - told[i - 1]) / (told[i] - told[i - 1]).clamp_min(1e-12)
        return float(self.log_snr[i - 1] + part * (self.log_snr[i] - self.log_snr[i - 1]))


@torch.no_grad()
def information(
    without: PredictNoise,
    given: PredictNoise,
    x_0: Image,
    schedule: NoiseSchedule,
    levels: int = 32,
    repeats: int = 1,
    seed: int = 0,
    window: tuple[float, float] | None = None,
) -> Information:
    """Integrate what a condition changes in the predicted noise over the noise levels.

    Args:
        without: Predict the noise in x_t without the condition.
        given: Predict it with the condition, of the same rows.
        x_0: (b, c, h, w) in [-1, 1], the images that the condition belongs to.
        schedule: the noise levels.
        levels: noise levels, evenly spaced in log-SNR as far as the schedule's timesteps allow.
        repeats: draws of the noise for every image and level.
        seed: seed of the noise. Both predictions see the same noise.
        window: lowest and highest log-SNR to integrate over; None: all. A denoiser trained with capped weights does not
            listen to x_t where noise is small, and its bits there mean nothing.

    Raises:
        InvalidOptionError: fewer than two levels in the window, or no repeats.
    """
    t = spread_timesteps(schedule, levels)
    log_snr = schedule.snr(t.to(schedule.beta.device)).log().cpu()
    if window is not None:
        inside = (log_snr >= window[0]) & (log_snr <= window[1])
        t, log_snr = t[inside], log_snr[inside]
    if len(t) < 2 or repeats < 1:
        few = f"{len(t)} noise levels and {repeats} repeats are too few"
        raise InvalidOptionError(f"{few}; give at least 2 levels and 1 repeat")
    noise = NoiseSource(seed, range(len(x_0)), x_0.device)
    squared, by_error = torch.zeros(len(t), *x_0.shape[-2:]), torch.zeros(len(t))
    for _ in range(repeats):
        eps = noise(x_0.shape).to(x_0.dtype)
        for k, step in enumerate(t.tolist()):
            steps = torch.full((len(x_0),), step, device=x_0.device)
            x_t = schedule.add_noise(x_0, eps, steps)
            blind, told = without(x_t, steps), given(x_t, steps)
            squared[k] += (blind - told).square().sum(1).mean(0).cpu() / repeats
            errors = (eps - blind).square() - (eps - told).square()
            by_error[k] += errors.flatten(1).sum(1).mean().cpu() / repeats
    pixels = torch.trapezoid(squared, log_snr, dim=0) / 2 / math.log(2)
    return Information(log_snr, squared.sum((1, 2)) / 2, by_error / 2, pixels)
