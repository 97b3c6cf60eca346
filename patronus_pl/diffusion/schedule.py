"""`NoiseSchedule`: how much signal and how much noise there is at every timestep t = 0..T-1."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patronus_pl.errors import InvalidOptionError
from patronus_pl.types import Timesteps


class NoiseSchedule(nn.Module):
    """The forward process x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε, and every conversion between x_0, ε and v at a step t.

    One schedule serves images (b, c, h, w), vectors (b, m) and any other shape whose first axis is the batch. Its
    tables move with the module and are in no checkpoint: the arguments say all.

    Args:
        timesteps: T, the number of noise levels.
        kind: `linear`: β_t evenly from `beta_start` to `beta_end` (Ho et al. 2020, DDPM);
            `cosine`: ᾱ_t = cos²(((t + 1) / T + 0.008) / 1.008 · π / 2), normalised, with β_t ≤ 0.999
            (Nichol & Dhariwal 2021, eq. 17), for which the two ends of β are not used.
        beta_start: β_0 of the linear schedule.
        beta_end: β_{T-1} of the linear schedule.
        spacing: how the steps of a sampler that takes fewer than T are spread, see `respaced`.

    Attributes:
        beta: β_t, float32 (T,).
        alpha_bar: ᾱ_t = Π_{u ≤ t} (1 - β_u), float32 (T,).
        exact_alpha_bar: the same numbers in double precision, as Python floats: samplers take their coefficients from
            these, so that no step waits for a device.

    Raises:
        InvalidOptionError: T < 1, an unknown kind or spacing, or β outside (0, 1) or decreasing.

    >>> schedule = NoiseSchedule(timesteps=1000)
    >>> schedule.respaced(4)
    [249, 499, 749, 999]
    >>> NoiseSchedule(timesteps=1000, spacing="quadratic").respaced(4)
    [0, 111, 444, 999]
    """

    beta: Tensor
    alpha_bar: Tensor
    signal_scale: Tensor
    noise_scale: Tensor

    def __init__(
        self,
        timesteps: int = 1000,
        kind: Literal["linear", "cosine"] = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        spacing: Literal["uniform", "quadratic"] = "uniform",
    ) -> None:
        super().__init__()
        if timesteps < 1:
            raise InvalidOptionError(f"timesteps is {timesteps}; a noise schedule needs at least 1 (usually 1000)")
        if kind == "linear":
            beta = _linear_beta(timesteps, beta_start, beta_end)
        elif kind == "cosine":
            beta = _cosine_beta(timesteps)
        else:
            raise InvalidOptionError(f"unknown noise schedule kind {kind!r}; choose linear or cosine")
        if spacing not in ("uniform", "quadratic"):
            raise InvalidOptionError(f"unknown spacing of steps {spacing!r}; choose uniform or quadratic")
        alpha_bar = torch.cumprod(1 - beta, dim=0)
        self.spacing = spacing
        self.timesteps, self.kind, self.beta_start, self.beta_end = timesteps, kind, beta_start, beta_end
        self.exact_alpha_bar: tuple[float, ...] = tuple(alpha_bar.tolist())
        # The roots are tables of their own: 1 - ᾱ_0 = 1e-4 taken from a float32 ᾱ would be off by 3e-4 of its value.
        tables = {
            "beta": beta,
            "alpha_bar": alpha_bar,
            "signal_scale": alpha_bar.sqrt(),
            "noise_scale": (1 - alpha_bar).sqrt(),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def add_noise(
        self, x_0: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], t: Timesteps
    ) -> Float[Tensor, "b *shape"]:
        """Return x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε (Ho et al. 2020, eq. 4)."""
        return self._signal(t, x_0) * x_0 + self._noise(t, x_0) * noise

    def x_0_from_velocity(
        self, v: Float[Tensor, "b *shape"], x_t: Float[Tensor, "b *shape"], t: Timesteps
    ) -> Float[Tensor, "b *shape"]:
        """Return x_0 = √ᾱ_t x_t - √(1-ᾱ_t) v."""
        return self._signal(t, x_t) * x_t - self._noise(t, x_t) * v

    def x_0_from_noise(
        self, x_t: Float[Tensor, "b *shape"], noise: Float[Tensor, "b *shape"], t: Timesteps
    ) -> Float[Tensor, "b *shape"]:
        """Return x_0 = (x_t - √(1-ᾱ_t) ε) / √ᾱ_t (Ho et al. 2020, eq. 15)."""
        return (x_t - self._noise(t, x_t) * noise) / self._signal(t, x_t)

    def noise_from_x_0(
        self, x_t: Float[Tensor, "b *shape"], x_0: Float[Tensor, "b *shape"], t: Timesteps
    ) -> Float[Tensor, "b *shape"]:
        """Return ε = (x_t - √ᾱ_t x_0) / √(1-ᾱ_t)."""
        return (x_t - self._signal(t, x_t) * x_0) / self._noise(t, x_t)

    def snr(self, t: Timesteps) -> Float[Tensor, " b"]:
        """Return the signal-to-noise ratio ᾱ_t / (1-ᾱ_t)."""
        return (self.signal_scale[t] / self.noise_scale[t]).square()

    def respaced(self, steps: int) -> list[int]:
        """Return `steps` of the T timesteps, increasing, the last of which is T-1; with steps = T every t.

        Uniform: t_k = ⌊(k + 1) T / steps⌋ - 1, k = 0..steps-1. Sampling starts from pure noise and must be told so (Lin
        et al. 2024, "Common diffusion noise schedules and sample steps are flawed", call this spacing "trailing");
        t = 0 is left out, as a step from ᾱ_0 to 1 costs as much as any other and changes little.

        Quadratic: t_k = max(k, ⌊(T - 1) (k / (steps - 1))² + ½⌋), dense where noise is small (Song et al. 2021, DDIM,
        appendix D.2). An inversion goes through these levels first, and what a model paints from s in one wide step
        leaves no way for the rest of the image to reach x_T.

        Raises:
            InvalidOptionError: `steps` is not in 1..T.
        """
        if not 1 <= steps <= self.timesteps:
            raise InvalidOptionError(
                f"steps is {steps}; this noise schedule has {self.timesteps} timesteps, so choose 1..{self.timesteps}"
            )
        if self.spacing == "uniform" or steps == 1:
            return [(k + 1) * self.timesteps // steps - 1 for k in range(steps)]
        curve = (self.timesteps - 1) / (steps - 1) ** 2
        return [max(k, math.floor(curve * k**2 + 0.5)) for k in range(steps)]

    def _signal(self, t: Tensor, x: Tensor) -> Tensor:
        return broadcast(self.signal_scale[t], x)

    def _noise(self, t: Tensor, x: Tensor) -> Tensor:
        return broadcast(self.noise_scale[t], x)


def broadcast(coefficient: Float[Tensor, " b"], x: Tensor) -> Tensor:
    """Reshape one coefficient a row, so that it multiplies rows of the shape of `x`."""
    return coefficient.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _linear_beta(timesteps: int, start: float, end: float) -> Tensor:
    if not 0 < start <= end < 1:
        raise InvalidOptionError(
            f"beta_start is {start} and beta_end {end}; they must satisfy 0 < beta_start <= beta_end < 1 "
            "(usually 1e-4 and 0.02)"
        )
    return torch.linspace(start, end, timesteps, dtype=torch.float64)


def _cosine_beta(timesteps: int) -> Tensor:
    phase = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    alpha_bar = ((phase + 0.008) / 1.008 * torch.pi / 2).cos().square()
    # The last ratio is 0: β = 1 would leave a level with no signal, from which x_0 cannot be computed.
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
