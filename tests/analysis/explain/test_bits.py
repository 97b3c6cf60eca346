"""Bits of a condition, against the closed form for two pictures and a fair coin."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from patronus_pl.analysis.explain.bits import information
from patronus_pl.diffusion import NoiseSchedule
from patronus_pl.errors import InvalidOptionError

SCHEDULE = NoiseSchedule()
HALF = torch.zeros(1, 8, 8)
HALF[:, 2:4, 2:6] = 0.4  # half the difference of the two pictures


def noise_of(coin: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Predicted noise of a painter that paints coin(x_t, t) · HALF."""

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return SCHEDULE.noise_from_x_0(x_t, coin(x_t, t)[:, None, None, None] * HALF, t)

    return predict


def posterior(x_t: Tensor, t: Tensor) -> Tensor:
    """E[c | x_t] of a fair coin c = ±1."""
    signal, noise = SCHEDULE.signal_scale[t], SCHEDULE.noise_scale[t]
    return torch.tanh((x_t * HALF).sum((1, 2, 3)) * signal / noise.square())


def density(gamma: float) -> float:
    """½ γ (1 - E[tanh(γ + √γ z)]), γ = SNR · ‖HALF‖²: binary input in Gaussian noise (Guo et al. 2005)."""
    value, _ = integrate.quad(lambda z: np.tanh(gamma + np.sqrt(gamma) * z) * stats.norm.pdf(z), -10, 10)
    return 0.5 * gamma * (1 - value)


def coins(n: int) -> Tensor:
    return torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1


def test_a_fair_coin_is_one_bit() -> None:
    c = coins(2000)
    x_0 = c[:, None, None, None] * HALF
    found = information(noise_of(posterior), noise_of(lambda x_t, t: c), x_0, SCHEDULE, levels=32)
    expected = [density(math.exp(float(level)) * float(HALF.square().sum())) for level in found.log_snr]
    np.testing.assert_allclose(found.density, expected, atol=0.03)
    np.testing.assert_allclose(found.density_by_error, expected, atol=0.06)
    assert found.bits == pytest.approx(1.0, abs=0.05)
    assert found.bits_by_error == pytest.approx(1.0, abs=0.05)
    # Half of it is told where SNR · ‖HALF‖² is about 1.05.
    half = math.exp(found.quantile(0.5)) * float(HALF.square().sum())
    assert half == pytest.approx(1.05, rel=0.15)
    assert found.quantile(0.1) < found.quantile(0.5) < found.quantile(0.9)


def test_the_map_shows_where_and_adds_up() -> None:
    c = coins(200)
    x_0 = c[:, None, None, None] * HALF
    found = information(noise_of(posterior), noise_of(lambda x_t, t: c), x_0, SCHEDULE, repeats=2)
    assert float(found.map.sum()) == pytest.approx(found.bits, rel=1e-4)
    assert (found.map > 0).equal(HALF[0] > 0)


def test_a_condition_that_changes_nothing_tells_nothing() -> None:
    c = coins(50)
    same = noise_of(posterior)
    found = information(same, same, c[:, None, None, None] * HALF, SCHEDULE)
    assert (found.bits, found.bits_by_error) == (0.0, 0.0)
    assert math.isnan(found.quantile(0.5))


def test_a_window_holds_the_integral() -> None:
    c = coins(100)
    x_0 = c[:, None, None, None] * HALF
    found = information(noise_of(posterior), noise_of(lambda x_t, t: c), x_0, SCHEDULE, window=(-4.0, -1.0))
    assert -4 <= float(found.log_snr[0]) < float(found.log_snr[-1]) <= -1


@pytest.mark.parametrize("options", [{"levels": 1}, {"repeats": 0}, {"window": (50.0, 60.0)}])
def test_too_little_to_integrate(options: dict[str, object]) -> None:
    same = noise_of(posterior)
    with pytest.raises(InvalidOptionError, match="are too few; give at least 2 levels and 1 repeat"):
        information(same, same, torch.zeros(2, 1, 8, 8), SCHEDULE, **options)  # type: ignore[arg-type]


def test_a_share_beyond_all() -> None:
    same = noise_of(posterior)
    with pytest.raises(InvalidOptionError, match=r"share is 1\.5; choose 0 to 1"):
        information(same, same, torch.zeros(2, 1, 8, 8), SCHEDULE).quantile(1.5)
