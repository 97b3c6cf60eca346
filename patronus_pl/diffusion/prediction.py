"""`Velocity` and `Epsilon`: what the output of a network means, and how its errors are weighed in training.

Everything outside this file speaks of one contract, D(x_t, t) → x̂_0: a denoiser names the clean data.

Notation: F is the output of the network; signal = √ᾱ_t, noise = √(1-ᾱ_t), SNR = ᾱ_t / (1-ᾱ_t).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from patronus_pl.diffusion.schedule import NoiseSchedule, broadcast
from patronus_pl.errors import InvalidOptionError
from patronus_pl.types import Timesteps, at_least_float32

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""D(x_t, t) → x̂_0, the predicted clean data, shaped like x_t; t is int64 of shape (b,)."""


class Prediction(ABC):
    """What a network predicts. The training loss is w(SNR) · ‖x_0 - x̂_0‖², with t drawn as `timestep_power` says.

    Args:
        timestep_power: Draw training timesteps as t = ⌊T u^(1/power)⌋ with u uniform in [0, 1). 1 is uniform; above 1
            favours noisy steps, where the condition matters most; below 1 favours clean ones.

    Raises:
        InvalidOptionError: `timestep_power` is not positive.
    """

    def __init__(self, timestep_power: float = 1.0) -> None:
        if timestep_power <= 0:
            raise InvalidOptionError(f"prediction.timestep_power is {timestep_power}; it must be positive")
        self.timestep_power = timestep_power

    @abstractmethod
    def clean(
        self,
        output: Float[Tensor, "b *shape"],
        x_t: Float[Tensor, "b *shape"],
        t: Timesteps,
        schedule: NoiseSchedule,
    ) -> Float[Tensor, "b *shape"]:
        """Return x̂_0, given the network's output F at (x_t, t)."""

    @abstractmethod
    def weight(self, snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return w(SNR), the weight of ‖x_0 - x̂_0‖² in the loss."""

    def denoiser(self, network: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule) -> Denoiser:
        """Turn a network `(x_t, t) → F` into a denoiser `(x_t, t) → x̂_0`, in float32 or better."""

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return self.clean(at_least_float32(network(x_t, t)), x_t, t, schedule)

        return denoise

    def loss(
        self,
        x_0: Float[Tensor, "b *shape"],
        clean: Float[Tensor, "b *shape"],
        t: Timesteps,
        schedule: NoiseSchedule,
    ) -> Float[Tensor, " b"]:
        """Return w(SNR) · ‖x_0 - x̂_0‖² of every row, averaged over its entries."""
        error: Tensor = (x_0 - clean).square().flatten(1).mean(1)
        return self.weight(schedule.snr(t)).to(error.dtype) * error


class Velocity(Prediction):
    """The velocity v = √ᾱ ε - √(1-ᾱ) x_0 (Salimans & Ho 2022), whose loss is ‖v - v̂‖² = (SNR + 1) ‖x_0 - x̂_0‖².

    A condition lowers this loss at every noise level, from the first step of training on.

    Args:
        skip_width: w, in units of x_0. The network then paints x_0 itself, and x_t is mixed in where it is nearly
            clean:
            x̂_0 = c x_t / √ᾱ + (1 - c) F,   c = w² / (w² + σ²),   σ² = (1-ᾱ) / ᾱ
            (the skip of Karras et al. 2022, EDM, eq. 7). Above σ = w the network need not copy the noise of every pixel
            through its layers, which would show as grain; below, only the error of x_t is the network's, so DDIM
            inverts well. Set w to the error that the network is left with: a few hundredths for cartoons. None: F is v.
        weight_cap: Largest weight: w(SNR) = min(SNR + 1, cap), so that steps with little noise, which need no
            condition, do not outweigh the others (after Hang et al. 2023). None caps nothing.
        timestep_power: See `Prediction`.

    Raises:
        InvalidOptionError: an option is not positive.
    """

    def __init__(
        self, skip_width: float | None = 0.2, weight_cap: float | None = 5.0, timestep_power: float = 1.0
    ) -> None:
        super().__init__(timestep_power)
        for name, value in (("skip_width", skip_width), ("weight_cap", weight_cap)):
            if value is not None and value <= 0:
                raise InvalidOptionError(f"prediction.{name} is {value}; it must be positive, or null for none")
        self.skip_width, self.weight_cap = skip_width, weight_cap

    def clean(
        self,
        output: Float[Tensor, "b *shape"],
        x_t: Float[Tensor, "b *shape"],
        t: Timesteps,
        schedule: NoiseSchedule,
    ) -> Float[Tensor, "b *shape"]:
        """Return x̂_0 = c x_t / √ᾱ + (1 - c) F, or √ᾱ x_t - √(1-ᾱ) F where F is v."""
        if self.skip_width is None:
            return schedule.x_0_from_velocity(output, x_t, t)
        scaled = schedule.snr(t) * self.skip_width**2  # w² / σ²
        c = broadcast(scaled / (1 + scaled), x_t)
        return c * x_t / broadcast(schedule.signal_scale[t], x_t) + (1 - c) * output

    def weight(self, snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return min(SNR + 1, cap)."""
        return snr + 1 if self.weight_cap is None else (snr + 1).clamp_max(self.weight_cap)


class Epsilon(Prediction):
    """The noise ε (Ho et al. 2020), whose loss is ‖ε - ε̂‖² = SNR · ‖x_0 - x̂_0‖². This is the paper's choice.

    It weighs errors of x_0 next to nothing at the noise levels where the condition is all that the model has.

    Args:
        timestep_power: See `Prediction`.
    """

    def __init__(self, timestep_power: float = 1.0) -> None:
        super().__init__(timestep_power)

    def clean(
        self,
        output: Float[Tensor, "b *shape"],
        x_t: Float[Tensor, "b *shape"],
        t: Timesteps,
        schedule: NoiseSchedule,
    ) -> Float[Tensor, "b *shape"]:
        """Return x̂_0 = (x_t - √(1-ᾱ) F) / √ᾱ."""
        return schedule.x_0_from_noise(x_t, output, t)

    def weight(self, snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the SNR itself."""
        return snr
