import math
import warnings
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from torch import Tensor

from patronus_pl.diffusion.samplers import NoiseSource, Step, ddim, ddim_invert, ddpm, dpm_solver_pp, last
from patronus_pl.diffusion.schedule import NoiseSchedule
from patronus_pl.errors import InvalidOptionError

SCHEDULE = NoiseSchedule()
ALPHA_BAR = torch.tensor(SCHEDULE.exact_alpha_bar)
X_T = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def wavy(x: Tensor, t: Tensor) -> Tensor:
    """A smooth denoiser that belongs to no distribution: its x̂_0 = 1.3 sin(x + t / 300), which a clip cuts."""
    alpha_bar = ALPHA_BAR[t].to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return (x - 1.3 * alpha_bar.sqrt() * (x + (t / 300).reshape(alpha_bar.shape)).sin()) / (1 - alpha_bar).sqrt()


class GaussianMixture:
    """The exact denoiser of one-dimensional data, Σ_k w_k N(μ_k, s²), in double precision."""

    def __init__(self, weights: list[float], means: list[float], std: float) -> None:
        self.weights, self.means, self.std = torch.tensor(weights).double(), torch.tensor(means).double(), std

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha_bar = ALPHA_BAR[t][:, None]
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        residual = x - alpha_bar.sqrt() * self.means
        share = (self.weights.log() - residual.square() / (2 * variance)).softmax(1)
        return (1 - alpha_bar).sqrt() * (share * residual).sum(1, keepdim=True) / variance


def gaussian(mean: float, std: float) -> GaussianMixture:
    return GaussianMixture([1.0], [mean], std)


def ode_map(x_T: Tensor, mean: float, std: float) -> Tensor:
    """Where the probability-flow ODE of N(mean, std²) takes x_T, which counts as of level T-1."""
    alpha_bar = SCHEDULE.exact_alpha_bar[-1]
    return mean + std * (x_T - math.sqrt(alpha_bar) * mean) / math.sqrt(alpha_bar * std**2 + 1 - alpha_bar)


def normal(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Tape:
    """A noise source that remembers what it gave."""

    def __init__(self) -> None:
        self.generator, self.given = torch.Generator().manual_seed(1), []

    def __call__(self, shape: torch.Size) -> Tensor:
        self.given.append(torch.randn(shape, generator=self.generator))
        return self.given[-1]


@pytest.fixture(scope="module")
def diffusers() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: ModuleType = pytest.importorskip("diffusers", reason="diffusers is the oracle of these tests")
        for name in ("DDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler", "DPMSolverMultistepScheduler"):
            getattr(module, name)  # its classes are imported when first named, with warnings of their own
    return module


# ------------------------------------------------------------------------------------------- against diffusers


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("timesteps", [SCHEDULE.respaced(20), [3, 77, 310, 500, 999], list(range(1000))])
def test_ddpm_equals_diffusers(diffusers, timesteps, clip):
    oracle = diffusers.DDPMScheduler(clip_sample=clip)
    oracle.set_timesteps(timesteps=timesteps[::-1])
    generator, x = torch.Generator().manual_seed(1), X_T
    for step in ddpm(wavy, X_T, SCHEDULE, timesteps, Tape(), clip):
        eps = wavy(x, torch.full((3,), step.t))
        theirs = oracle.step(eps, step.t, x, generator=generator)
        torch.testing.assert_close(step.x_next, theirs.prev_sample, atol=1e-5, rtol=1e-5)
        x = step.x_next
    assert step.t == timesteps[0]


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("steps", [1, 10, 50, 1000])
def test_ddim_equals_diffusers(diffusers, steps, clip, eta):
    oracle = diffusers.DDIMScheduler(clip_sample=clip, timestep_spacing="trailing")
    oracle.set_timesteps(steps)
    tape, x = Tape(), X_T
    for t, step in zip(oracle.timesteps.tolist(), ddim(wavy, X_T, SCHEDULE, steps, eta, clip, tape), strict=True):
        # The oracle too must take ε anew from the clipped x̂_0; it draws noise in the last step, but scales it by 0.
        noise = tape.given[-1] if tape.given else torch.zeros_like(x)
        theirs = oracle.step(wavy(x, torch.full((3,), t)), t, x, eta, clip, variance_noise=noise)
        assert step.t == t
        torch.testing.assert_close(step.x_next, theirs.prev_sample, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(step.x_0, theirs.pred_original_sample, atol=1e-5, rtol=1e-4)
        x = step.x_next


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the oracle's own
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("timesteps", [*(SCHEDULE.respaced(n) for n in (1, 2, 10, 20, 50)), [0, 9, 250, 251, 999]])
def test_dpm_solver_equals_diffusers(diffusers, timesteps, clip):
    oracle = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        thresholding=clip,
        sample_max_value=1.0,  # their dynamic threshold, held at 1, is a clip
    )
    oracle.set_timesteps(timesteps=timesteps[::-1])
    x = X_T
    for t, step in zip(timesteps[::-1], dpm_solver_pp(wavy, X_T, SCHEDULE, timesteps, clip), strict=True):
        x = oracle.step(wavy(x, torch.full((3,), t)), t, x).prev_sample
        assert step.t == t
        torch.testing.assert_close(step.x_next, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 10, 50, 1000])
def test_inversion_has_the_levels_of_diffusers(diffusers, steps):
    oracle = diffusers.DDIMInverseScheduler(clip_sample=False, timestep_spacing="trailing")
    oracle.set_timesteps(steps)
    targets, x = oracle.timesteps.tolist(), X_T.tanh()
    for t, step in zip(targets, ddim_invert(wavy, X_T.tanh(), SCHEDULE, steps), strict=True):
        # Their step names the level it reaches, ours the one it leaves, where ε is better asked for.
        x = oracle.step(wavy(x, torch.full((3,), step.t)), t, x).prev_sample
        torch.testing.assert_close(step.x_next, x, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------- in closed form


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.5), (-1.0, 0.1), (0.0, 1.0)])
def test_ddim_follows_the_ode_of_a_gaussian(mean, std):
    x_T = normal(64)
    x = last(ddim(gaussian(mean, std), x_T, SCHEDULE, 1000))
    torch.testing.assert_close((x - mean) / std, (ode_map(x_T, mean, std) - mean) / std, atol=0.02, rtol=0.02)


def test_dpm_solver_is_closer_to_the_ode_than_ddim():
    x_T, denoise = normal(64), gaussian(0.3, 0.8)
    exact = ode_map(x_T, 0.3, 0.8)
    errors = [(last(s(denoise, x_T, SCHEDULE, 20)) - exact).abs().max() for s in (dpm_solver_pp, ddim)]
    assert errors[0] < 0.04
    assert errors[0] < errors[1] / 3


@pytest.mark.parametrize("steps", [100, 1000])
def test_ddpm_has_the_mean_and_the_spread_of_a_gaussian(steps):
    n = 20_000
    x = last(ddpm(gaussian(0.3, 0.5), normal(n), SCHEDULE, steps, noise=lambda shape: normal(shape[0], seed=1)))
    # placeholder
    assert x.mean().item() == pytest.approx(0.3, abs=4 * 0.5 / math.sqrt(n))
    assert x.std().item() == pytest.approx(0.5, rel=0.02 + 3 / math.sqrt(2 * n))


@pytest.mark.parametrize("name", ["ddpm", "ddim", "eta 0.5", "dpm++"])
def test_modes_get_their_mass(name):
    n, draws = 20_000, torch.Generator().manual_seed(1)
    denoise = GaussianMixture([0.3, 0.7], [-0.8, 0.6], 0.1)

    def noise(shape: torch.Size) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=draws)

    x = last(
        {
            "ddpm": lambda: ddpm(denoise, normal(n), SCHEDULE, 200, noise),
            "ddim": lambda: ddim(denoise, normal(n), SCHEDULE, 200),
            "eta 0.5": lambda: ddim(denoise, normal(n), SCHEDULE, 200, eta=0.5, noise=noise),
            "dpm++": lambda: dpm_solver_pp(denoise, normal(n), SCHEDULE, 50),
        }[name]()
    )
    assert (x < 0).double().mean().item() == pytest.approx(0.3, abs=0.015)
    assert x[x < 0].mean().item() == pytest.approx(-0.8, abs=0.01)
    assert x[x > 0].mean().item() == pytest.approx(0.6, abs=0.01)
