"""What the output of a network means, and how its errors are weighed, in closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor

from patronus_pl.diffusion import Epsilon, NoiseSchedule, Prediction, Velocity
from patronus_pl.errors import InvalidOptionError

SCHEDULE = NoiseSchedule(100)
T_OF = torch.tensor([0, 41, 99])
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 100))[T_OF.numpy()]
SNR = ALPHA_BAR / (1 - ALPHA_BAR)
SHAPES = [(3, 2, 4, 5), (3, 7), (3,)]
PREDICTIONS = [Epsilon(), Velocity(None, None), Velocity(None), Velocity(), Velocity(0.05, 3.0)]


def column(values: np.ndarray, x: Tensor) -> np.ndarray:
    return values.reshape(-1, *[1] * (x.ndim - 1))


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_velocity_names_x_0(shape: tuple[int, ...]) -> None:
    """x̂_0 = √ᾱ x_t - √(1-ᾱ) v."""
    x_t, output = normal(shape, 0), normal(shape, 1)
    signal, noise = (column(np.sqrt(a), x_t) for a in (ALPHA_BAR, 1 - ALPHA_BAR))
    found = Velocity(skip_width=None).clean(output, x_t, T_OF, SCHEDULE)
    np.testing.assert_allclose(found, signal * x_t.numpy() - noise * output.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_epsilon_names_x_0(shape: tuple[int, ...]) -> None:
    """x̂_0 = (x_t - √(1-ᾱ) ε) / √ᾱ."""
    x_t, output = normal(shape, 0), normal(shape, 1)
    signal, noise = (column(np.sqrt(a), x_t) for a in (ALPHA_BAR, 1 - ALPHA_BAR))
    found = Epsilon().clean(output, x_t, T_OF, SCHEDULE)
    np.testing.assert_allclose(found, (x_t.numpy() - noise * output.numpy()) / signal, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_skip_is_karras_s_in_units_of_x_0(shape: tuple[int, ...], width: float) -> None:
    """Karras et al. 2022, table 1: c_skip = w² / (w² + σ²) of x = x_0 + σ ε; the rest is the network's."""
    x_t, output = normal(shape, 0), normal(shape, 1)
    c = column(width**2 / (width**2 + 1 / SNR), x_t)
    expected = c * x_t.numpy() / column(np.sqrt(ALPHA_BAR), x_t) + (1 - c) * output.numpy()
    found = Velocity(skip_width=width).clean(output, x_t, T_OF, SCHEDULE)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cap", [None, 1.0, 5.0])
def test_weight_of_velocity(cap: float | None) -> None:
    found = Velocity(weight_cap=cap).weight(SCHEDULE.snr(T_OF))
    np.testing.assert_allclose(found, np.minimum(SNR + 1, cap or np.inf), rtol=1e-5)


def test_weight_of_epsilon() -> None:
    np.testing.assert_allclose(Epsilon().weight(SCHEDULE.snr(T_OF)), SNR, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_loss_of_velocity_is_the_squared_error_of_v(shape: tuple[int, ...]) -> None:
    """‖v - v̂‖² = (SNR + 1) ‖x_0 - x̂_0‖², for v = √ᾱ ε - √(1-ᾱ) x_0 and any v̂."""
    x_0, noise, output = normal(shape, 0), normal(shape, 1), normal(shape, 2)
    signal, rest = (column(np.sqrt(a), x_0) for a in (ALPHA_BAR, 1 - ALPHA_BAR))
    v = signal * noise.numpy() - rest * x_0.numpy()
    expected = ((v - output.numpy()) ** 2).reshape(3, -1).mean(1)
    prediction = Velocity(skip_width=None, weight_cap=None)
    clean = prediction.clean(output, SCHEDULE.add_noise(x_0, noise, T_OF), T_OF, SCHEDULE)
    np.testing.assert_allclose(prediction.loss(x_0, clean, T_OF, SCHEDULE), expected, rtol=1e-4)
    capped = Velocity(skip_width=None, weight_cap=2.0).loss(x_0, clean, T_OF, SCHEDULE)
    np.testing.assert_allclose(capped, expected * np.minimum(1, 2 / (SNR + 1)), rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_loss_of_epsilon_is_the_squared_error_of_the_noise(shape: tuple[int, ...]) -> None:
    """‖ε - ε̂‖² = SNR ‖x_0 - x̂_0‖², for any ε̂."""
    x_0, noise, output = normal(shape, 0), normal(shape, 1), normal(shape, 2)
    clean = Epsilon().clean(output, SCHEDULE.add_noise(x_0, noise, T_OF), T_OF, SCHEDULE)
    expected = ((noise - output).square()).reshape(3, -1).mean(1)
    np.testing.assert_allclose(Epsilon().loss(x_0, clean, T_OF, SCHEDULE), expected, rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: f"{type(p).__name__}{vars(p)}")
def test_the_truth_costs_nothing(prediction: Prediction) -> None:
    x_0 = normal((3, 2, 4, 5), 0)
    assert not prediction.loss(x_0, x_0, T_OF, SCHEDULE).any()


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: f"{type(p).__name__}{vars(p)}")
def test_denoiser_of_a_network(prediction: Prediction) -> None:
    """What a network in bfloat16 says becomes x̂_0 in float32."""
    x_t = normal((3, 7), 0).float()

    def network(x: Tensor, t: Tensor) -> Tensor:
        return (x.sin() + t[:, None] / 100).bfloat16()

    found = prediction.denoiser(network, SCHEDULE)(x_t, T_OF)
    assert found.dtype == torch.float32
    assert torch.equal(found, prediction.clean(network(x_t, T_OF).float(), x_t, T_OF, SCHEDULE))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Velocity(skip_width=0.0), "prediction.skip_width is 0.0; it must be positive, or null for none"),
        (lambda: Velocity(weight_cap=-1.0), "prediction.weight_cap is -1.0; it must be positive"),
        (lambda: Velocity(timestep_power=0.0), "prediction.timestep_power is 0.0; it must be positive"),
        (lambda: Epsilon(timestep_power=-1.0), "prediction.timestep_power is -1.0"),
    ],
)
def test_impossible_options(make: type[Prediction], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        make()
