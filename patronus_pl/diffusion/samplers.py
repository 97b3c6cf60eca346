"""Samplers: generators over any denoiser that yield every step.

Notation: variable -> paper

    x_t, x_0, x_T          -> x_t; x_0, or its prediction x̂_0 (f_θ of DDIM); x_T
    eps                    -> ε_θ(x_t, t), the predicted noise, which follows from x̂_0: ε = (x_t - √ᾱ_t x̂_0) / √(1-ᾱ_t)
    level.alpha_bar        -> ᾱ_t of DDPM (Ho et al. 2020); α_t of DDIM (Song et al. 2021)
    level.signal, .noise   -> √ᾱ_t, √(1-ᾱ_t); α_t, σ_t of DPM-Solver++ (Lu et al. 2022)
    level.log_snr          -> λ_t = log(α_t / σ_t) of DPM-Solver++ (half of the logarithm of the signal-to-noise ratio)
    source, target         -> the levels that a step leaves and reaches: t, t-1 of DDPM; s, t of DPM-Solver++
    sigma                  -> σ_t(η) of DDIM, √β̃_t of DDPM for η = 1

A sampler knows no network. It receives a denoiser D(x_t, t) → x̂_0, where t is int64 of shape (b,). It keeps one state
and no list of them, and it starts (and checks its options) when the first step is asked of it. Run it under
`torch.no_grad()`. `steps` is a number, spaced by `NoiseSchedule.respaced`, or the increasing timesteps themselves.
Clean data are one more level, ᾱ = 1, below the first of them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.diffusion.prediction import Denoiser
from patronus_pl.diffusion.sampling import Sampler
from patronus_pl.diffusion.schedule import NoiseSchedule
from patronus_pl.errors import InvalidOptionError


class Step(NamedTuple):
    """One step of a sampler.

    Attributes:
        t: timestep of the state that enters the step.
        x_t: that state.
        x_0: the clean data that the step aims at (clipped if so asked).
        x_next: the state after the step: less noisy when sampling, noisier when inverting.
    """

    t: int
    x_t: Tensor
    x_0: Tensor
    x_next: Tensor


class NoiseSource:
    """Standard normal noise with one generator per image: image k is the same at any batch size and on any device.

    Each call draws the next values of every image's own stream, on the CPU, and moves them to `device`.

    Args:
        seed: seed of the whole run; not negative.
        indices: which image each row of a batch is; its stream depends on (seed, index) alone.
        device: device on which the noise is returned.

    Raises:
        InvalidOptionError: a negative seed or index.

    >>> both, second = NoiseSource(0, [0, 1]), NoiseSource(0, [1])
    >>> bool((both((2, 3))[1] == second((1, 3))[0]).all())
    True
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        if min([seed, *indices]) < 0:
            raise InvalidOptionError(f"seed is {seed} and image indices are {list(indices)}; use numbers >= 0")
        # NumPy's, since torch's CPU generator keeps 32 bits of a seed: some of many pairs would collide.
        self.generators = [np.random.default_rng((seed, k)) for k in indices]
        self.device = torch.device(device)

    def __call__(self, shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Return noise of the given shape, whose first number is the batch size."""
        if shape[0] != len(self.generators):
            raise ValueError(f"{shape[0]} rows of noise were asked of a source for {len(self.generators)} images")
        rows = [generator.standard_normal(shape[1:], dtype=np.float32) for generator in self.generators]
        return torch.from_numpy(np.stack(rows)).to(self.device)


def last(steps: Iterator[Step]) -> Tensor:
    """Return the state after the last step."""
    for step in steps:
        x = step.x_next
    return x


def ddpm(
    denoiser: Denoiser,
    x_T: Float[Tensor, "b *shape"],
    schedule: NoiseSchedule,
    steps: int | Sequence[int],
    noise: Callable[[Sequence[int]], Tensor],
    clip: bool = False,
) -> Iterator[Step]:
    """Sample step by step backwards (Ho et al. 2020, algorithm 2) with the posterior's variance β̃_t (eq. 7).

    It is DDIM with η = 1 (Song et al. 2021, section 4.1), exactly so for respaced and clipped steps too.

    Args:
        denoiser: D(x_t, t) → x̂_0.
        x_T: pure noise.
        schedule: the noise levels.
        steps: how many, or the increasing timesteps themselves.
        noise: fresh noise of a given shape for every step but the last, see `NoiseSource`.
        clip: clip x̂_0 to [-1, 1].

    Yields:
        Every step, from the noisiest on.

    Raises:
        InvalidOptionError: steps that the schedule does not have.
    """
    return ddim(denoiser, x_T, schedule, steps, eta=1.0, clip=clip, noise=noise)


def ddim(
    denoiser: Denoiser,
    x_T: Float[Tensor, "b *shape"],
    schedule: NoiseSchedule,
    steps: int | Sequence[int],
    eta: float = 0.0,
    clip: bool = False,
    noise: Callable[[Sequence[int]], Tensor] | None = None,
) -> Iterator[Step]:
    """Sample by DDIM (Song et al. 2021, eq. 12 and 16).

    x_{t-1} = √ᾱ_{t-1} x̂_0 + √(1 - ᾱ_{t-1} - σ²) ε + σ z,   σ = η √((1-ᾱ_{t-1}) / (1-ᾱ_t)) √(1 - ᾱ_t / ᾱ_{t-1})

    Args:
        denoiser: D(x_t, t) → x̂_0.
        x_T: pure noise, or the end of `ddim_invert`.
        schedule: the noise levels.
        steps: how many, or the increasing timesteps themselves.
        eta: 0 is deterministic, 1 is DDPM.
        clip: clip x̂_0 to [-1, 1]; ε then follows from the clipped x̂_0.
        noise: z, fresh noise of a given shape; needed if eta > 0, see `NoiseSource`.

    Yields:
        Every step, from the noisiest on.

    Raises:
        InvalidOptionError: steps that the schedule does not have, eta outside [0, 1], or eta > 0 without noise.
    """
    if not 0 <= eta <= 1:
        raise InvalidOptionError(f"eta is {eta}; choose 0 (deterministic) to 1 (as random as DDPM)")
    if eta > 0 and noise is None:
        raise InvalidOptionError(f"eta is {eta} but there is no noise; pass noise=NoiseSource(seed, indices), or eta=0")
    x = x_T
    for source, target in pairwise(reversed(_levels(schedule, steps))):
        x_0, eps = _predict(denoiser, x, source, clip)
        sigma = eta * target.noise / source.noise * math.sqrt(1 - source.alpha_bar / target.alpha_bar)
        x_next = target.signal * x_0 + math.sqrt(target.noise**2 - sigma**2) * eps
        if sigma > 0 and noise is not None:
            x_next = x_next + sigma * noise(x.shape)
        yield Step(source.t, x, x_0, x_next)
        x = x_next


def dpm_solver_pp(
    denoiser: Denoiser,
    x_T: Float[Tensor, "b *shape"],
    schedule: NoiseSchedule,
    steps: int | Sequence[int],
    clip: bool = False,
) -> Iterator[Step]:
    """Sample by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order at one evaluation a step.

    D = (1 + 1/2r) x̂_0(t_i) - 1/2r x̂_0(t_{i-1}),   r = (λ_i - λ_{i-1}) / (λ_{i+1} - λ_i),
    x_{i+1} = σ_{i+1}/σ_i x_i - α_{i+1} (e^{-(λ_{i+1} - λ_i)} - 1) D: a step of DDIM towards D instead of x̂_0.
    The first step has no past and the last ends where λ is infinite: D = x̂_0 in both.

    Args:
        denoiser: D(x_t, t) → x̂_0.
        x_T: pure noise.
        schedule: the noise levels.
        steps: how many, or the increasing timesteps themselves.
        clip: clip x̂_0 to [-1, 1].

    Yields:
        Every step, from the noisiest on; x_0 is x̂_0, not D.

    Raises:
        InvalidOptionError: steps that the schedule does not have.
    """
    x, before = x_T, None
    for source, target in pairwise(reversed(_levels(schedule, steps))):
        x_0, eps = _predict(denoiser, x, source, clip)
        x_next = target.signal * x_0 + target.noise * eps
        if before is not None and target.noise > 0:
            level, x_0_before = before
            half_inverse_r = 0.5 * (target.log_snr - source.log_snr) / (source.log_snr - level.log_snr)
            toward_D = target.signal - target.noise * source.signal / source.noise
            x_next = x_next + toward_D * half_inverse_r * (x_0 - x_0_before)
        yield Step(source.t, x, x_0, x_next)
        x, before = x_next, (source, x_0)


def ddim_invert(
    denoiser: Denoiser,
    x_0: Float[Tensor, "b *shape"],
    schedule: NoiseSchedule,
    steps: int | Sequence[int],
    refine: int = 0,
) -> Iterator[Step]:
    """Find the x_T from which `ddim`, with the same steps and η = 0, leads back to x_0.

    The step of DDIM from x_{k+1} at level k+1 down to x_k at level k is undone by

    x_{k+1} = √ᾱ_{k+1} (x_k - √(1-ᾱ_k) ε) / √ᾱ_k + √(1-ᾱ_{k+1}) ε,   ε = ε_θ(x_{k+1}, t_{k+1}),

    over the levels of sampling, from ᾱ = 1 for x_0 up to t_{n-1}. The x_{k+1} on the right is not known. With
    `refine=0`, ε_θ(x_k, t_k) stands in for its ε (Song et al. 2021, section 4.3). `refine=r` solves the equation by r
    fixed-point iterations (Pan et al. 2023, AIDI; Garibi et al. 2024, ReNoise) from the last ε on, in r n + 1
    evaluations for n steps: r = 1 costs no more than 0 and comes back far closer. Larger r may diverge.

    Args:
        denoiser: D(x_t, t) → x̂_0.
        x_0: clean data.
        schedule: the noise levels.
        steps: those that `ddim` will take: how many, or the increasing timesteps themselves.
        refine: fixed-point iterations a step.

    Yields:
        Every step, from x_0 on; its `t` is 0 for x_0 itself, its `x_0` the step's x̂_0.

    Raises:
        InvalidOptionError: steps that the schedule does not have, or refine < 0.
    """
    if refine < 0:
        raise InvalidOptionError(f"refine is {refine}; choose 0 (none) or the number of fixed-point iterations a step")

    levels = _levels(schedule, steps)
    x, eps = x_0, _noise(denoiser, x_0, levels[0], schedule)
    for k, (source, target) in enumerate(pairwise(levels)):
        if k > 0 and refine == 0:
            eps = _noise(denoiser, x, source, schedule)
        x_next = _ddim_step(x, eps, source, target)
        for _ in range(refine):
            eps = _noise(denoiser, x_next, target, schedule)
            x_next = _ddim_step(x, eps, source, target)
        yield Step(source.t, x, (x - source.noise * eps) / source.signal, x_next)
        x = x_next


def sample_steps(
    sampler: Sampler,
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: NoiseSchedule,
    steps: int | Sequence[int],
    eta: float = 0.0,
    clip: bool = False,
    noise: NoiseSource | None = None,
) -> Iterator[Step]:
    """Yield the steps of the sampler of that name; `eta` is heeded by `ddim` alone.

    Raises:
        InvalidOptionError: no such sampler, or one that needs noise and has none.
    """
    if sampler == "ddpm":
        if noise is None:
            raise InvalidOptionError("sampler ddpm is random; pass noise=NoiseSource(seed, indices), or use ddim")
        return ddpm(denoiser, x_T, schedule, steps, noise=noise, clip=clip)
    if sampler == "ddim":
        return ddim(denoiser, x_T, schedule, steps, eta=eta, noise=noise, clip=clip)
    if sampler == "dpm++":
        return dpm_solver_pp(denoiser, x_T, schedule, steps, clip=clip)
    raise InvalidOptionError(f"unknown sampler {sampler!r}; choose ddpm, ddim or dpm++")


class _Level(NamedTuple):
    """A noise level and the timestep by which the denoiser knows it (a nearby one, for levels that have none)."""

    t: int
    alpha_bar: float

    @property
    def signal(self) -> float:
        return math.sqrt(self.alpha_bar)

    @property
    def noise(self) -> float:
        return math.sqrt(1 - self.alpha_bar)

    @property
    def log_snr(self) -> float:
        return math.log(self.signal / self.noise)


def _levels(schedule: NoiseSchedule, steps: int | Sequence[int]) -> list[_Level]:
    """Return the clean level, then those of the timesteps, increasingly noisy."""
    timesteps = schedule.respaced(steps) if isinstance(steps, int) else list(steps)
    # The two ends join in: one comparison checks order and range.
    if not timesteps or any(a >= b for a, b in pairwise([-1, *timesteps, schedule.timesteps])):
        raise InvalidOptionError(
            f"steps are {timesteps}; give a number, or timesteps that increase within 0..{schedule.timesteps - 1}"
        )
    return [_Level(0, 1.0), *(_Level(t, schedule.exact_alpha_bar[t]) for t in timesteps)]


def _predict(denoiser: Denoiser, x: Tensor, level: _Level, clip: bool) -> tuple[Tensor, Tensor]:
    """Return x̂_0 and ε, such that x = √ᾱ x̂_0 + √(1-ᾱ) ε."""
    x_0 = denoiser(x, torch.full((len(x),), level.t, device=x.device))
    if clip:
        x_0 = x_0.clamp(-1, 1)
    return x_0, (x - level.signal * x_0) / level.noise


def _noise(denoiser: Denoiser, x: Tensor, level: _Level, schedule: NoiseSchedule) -> Tensor:
    """Return ε. The clean level has no timestep: the denoiser takes it for t = 0, and means the noise of that level."""
    return _predict(denoiser, x, _Level(level.t, schedule.exact_alpha_bar[level.t]), clip=False)[1]


def _ddim_step(x: Tensor, eps: Tensor, source: _Level, target: _Level) -> Tensor:
    return target.signal / source.signal * (x - source.noise * eps) + target.noise * eps
