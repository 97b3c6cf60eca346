"""What noisy images tell, against the closed form for two pictures and a fair coin."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from patronus_pl.analysis.explain.recovery import (
    passages,
    recovery,
    spread_timesteps,
    squared_correlation,
    timesteps_at,
)
from patronus_pl.denoiser import UNet
from patronus_pl.diffusion import NoiseSchedule, Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.prototypes import PatchEncoder, PrototypeLayer
from tests.conftest import ModelFactory

BRIGHT = torch.tensor([0.5, 0.02])
"""Half the difference of the two pictures, in each of 32 pixels of the upper and the lower half."""


class Coins(PatronusModule):
    """Two halves of a picture are either light or dark, by two coins; it knows the posterior mean exactly."""

    def encode(self, x):
        return (x.unflatten(2, (2, 4)).mean((1, 3, 4))) / BRIGHT

    def denoiser_for(self, s, keep=None):
        assert keep is not None

        def denoise(x_t, t):
            halves = x_t.unflatten(2, (2, 4)).sum((1, 3, 4))
            signal, noise = self.schedule.signal_scale[t], self.schedule.noise_scale[t]
            coins = torch.tanh(halves * BRIGHT * (signal / noise.square())[:, None]).where(~keep, s)
            return picture(coins)

        return denoise


def picture(coins):
    return (coins * BRIGHT).repeat_interleave(4, 1)[:, None, :, None].expand(-1, 1, 8, 8)


def known_of_a_coin(log_snr: float, bright: float) -> float:
    """ρ² of a coin c = ±1 with its posterior mean: E[tanh(γ + √γ z)], γ = SNR · Σ bright² over its 32 pixels."""
    gamma = np.exp(log_snr) * 32 * bright**2
    value, _ = integrate.quad(lambda z: np.tanh(gamma + np.sqrt(gamma) * z) * stats.norm.pdf(z), -10, 10)
    return value


def coins(n: int = 3000) -> torch.Tensor:
    return torch.randint(0, 2, (n, 2), generator=torch.Generator().manual_seed(0)) * 2.0 - 1


def model() -> PatronusModule:
    parts = PatchEncoder((1, 4), (4,), (4,), (0,)), PrototypeLayer(2, 4), UNet(1, 2, base=8, multipliers=(1,), blocks=1)
    return Coins((1, 8, 8), *parts, NoiseSchedule()).eval()


def test_two_pictures_and_a_fair_coin() -> None:
    found = recovery(model(), picture(coins()), Sampling(batch_size=500), levels=16)
    for j, bright in enumerate(BRIGHT.tolist()):
        expected = [known_of_a_coin(float(level), bright) for level in found.log_snr]
        np.testing.assert_allclose(found.known[j], expected, atol=0.04)
    assert (found.redundant < 0.01).all()  # the coins are independent
    # What is bright is decided earlier, at more noise; and by how much: at equal SNR · bright².
    assert found.passed[0, 1] < found.passed[1, 1]
    expected = 2 * np.log(float(BRIGHT[0] / BRIGHT[1]))
    assert float(found.passed[1, 1] - found.passed[0, 1]) == pytest.approx(expected, abs=0.3)
    assert (found.low <= found.passed + 1e-3).all()
    assert (found.passed <= found.high + 1e-3).all()


def test_levels_are_distinct_and_spread() -> None:
    schedule = NoiseSchedule()
    t = spread_timesteps(schedule, 12)
    assert (t[0], t[-1]) == (999, 0)
    assert (t.diff() < 0).all()
    steps = schedule.snr(t).log().diff()
    assert steps.max() < 2 * steps.median()


def test_timesteps_of_log_snr_are_those_of_the_schedule() -> None:
    schedule = NoiseSchedule()
    t = torch.tensor([0, 17, 500, 999])
    found = timesteps_at(schedule, schedule.snr(t).log())
    np.testing.assert_allclose(found, t, atol=1e-2)
    between = timesteps_at(schedule, schedule.snr(t[2:3]).log() + 1e-3)
    assert 499 < float(between) < 500
    assert timesteps_at(schedule, torch.tensor([-99.0, 99.0, torch.nan]))[:2].tolist() == [999, 0]
    assert timesteps_at(schedule, torch.tensor([torch.nan])).isnan().all()


def test_squared_correlation_is_numpys() -> None:
    generator = torch.Generator().manual_seed(0)
    s, read = torch.randn(50, 3, generator=generator), torch.randn(2, 50, 3, generator=generator)
    read[0] += s
    read[1, :, 2] = 1.0
    found = squared_correlation(s, read, torch.ones(1, 50))[0]
    for k in range(2):
        for j in range(3):
            constant = (k, j) == (1, 2)
            expected = 0.0 if constant else np.corrcoef(s[:, j], read[k, :, j])[0, 1] ** 2
            assert float(found[k, j]) == pytest.approx(expected, abs=1e-5)


def test_passages_are_read_off_between_levels() -> None:
    log_snr = torch.tensor([-4.0, -2.0, 0.0, 2.0])
    known = torch.tensor([[0.2, 0.2, 0.6, 1.0], [0.0, 0.05, 0.05, 0.08], [0.0, 0.9, 0.1, 1.0]])
    found = passages(log_snr, known)
    np.testing.assert_allclose(found[0], [-2 + 0.4, 0.0, 1.6], atol=1e-5)
    assert found[1].isnan().all()
    assert float(found[2, 2]) == pytest.approx(-2.0, abs=1e-5)  # what was known once stays known


def test_wrong_input(make_model: ModelFactory) -> None:
    images = torch.zeros(16, 1, 16, 16)
    with pytest.raises(InvalidOptionError, match="trained without masks"):
        recovery(make_model(), images)
    with pytest.raises(InvalidOptionError, match="3 images and 24 noise levels are too few"):
        recovery(make_model(), images[:3])
