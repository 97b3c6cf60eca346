import math
import warnings
from itertools import pairwise
from types import ModuleType

import jaxtyping
import pytest
import torch
from torch import Tensor

from patronus_pl.diffusion.samplers import NoiseSource, ddim, ddim_invert, ddpm, dpm_solver_pp, last, sample_steps
from patronus_pl.diffusion.schedule import NoiseSchedule
from patronus_pl.errors import InvalidOptionError

SCHEDULE = NoiseSchedule()
ALPHA_BAR = torch.tensor(SCHEDULE.exact_alpha_bar, dtype=torch.float64)
X_T = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def wavy(x: Tensor, t: Tensor) -> Tensor:
    """A smooth denoiser that belongs to no distribution: x̂_0 = 1.3 sin(x + t / 300), which a clip cuts."""
    return 1.3 * (x + (t / 300).reshape(-1, *[1] * (x.ndim - 1))).sin()


def wavy_noise(x: Tensor, t: int) -> Tensor:
    """The noise that `wavy` leaves of x, for the oracles: ε = (x - √ᾱ x̂_0) / √(1-ᾱ)."""
    x_0 = wavy(x, torch.full((len(x),), t))
    return (x - ALPHA_BAR[t].sqrt() * x_0) / (1 - ALPHA_BAR[t]).sqrt()


class GaussianMixture:
    """The exact denoiser of one-dimensional data, Σ_k w_k N(μ_k, s²), in double precision."""

    def __init__(self, weights: list[float], means: list[float], std: float) -> None:
        self.weights, self.means, self.std = torch.tensor(weights).double(), torch.tensor(means).double(), std

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha_bar = ALPHA_BAR[t][:, None]
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        residual = x - alpha_bar.sqrt() * self.means
        share = (self.weights.log() - residual.square() / (2 * variance)).softmax(1)
        # Each mode pulls x towards its mean: E[x_0 | x_t, k] = μ_k + √ᾱ s² (x_t - √ᾱ μ_k) / (ᾱ s² + 1 - ᾱ).
        pulled = self.means + alpha_bar.sqrt() * self.std**2 * residual / variance
        return (share * pulled).sum(1, keepdim=True)


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
        self.given.append(torch.randn(shape, dtype=torch.float64, generator=self.generator))
        return self.given[-1]


@pytest.fixture(scope="module")
def diffusers() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: ModuleType = pytest.importorskip("diffusers", reason="diffusers is the oracle of these tests")
        for name in ("DDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler", "DPMSolverMultistepScheduler"):
            getattr(module, name)  # its classes are imported when first named, with warnings of their own
    return module


def in_double(oracle):
    """The oracle with its tables in double precision: in single, its own rounding errors reach 1e-4 at both ends."""
    oracle.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    oracle.alphas = 1 - oracle.betas
    oracle.alphas_cumprod = oracle.alphas.cumprod(0)
    return oracle


# ------------------------------------------------------------------------------------------- against diffusers


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("timesteps", [SCHEDULE.respaced(20), [3, 77, 310, 500, 999], SCHEDULE.respaced(333)])
def test_ddpm_equals_diffusers(diffusers, timesteps, clip):
    oracle = in_double(diffusers.DDPMScheduler(clip_sample=clip))
    oracle.set_timesteps(timesteps=timesteps[::-1])
    generator, x = torch.Generator().manual_seed(1), X_T
    for step in ddpm(wavy, X_T, SCHEDULE, timesteps, Tape(), clip):
        theirs = oracle.step(wavy_noise(x, step.t), step.t, x, generator=generator)
        torch.testing.assert_close(step.x_next, theirs.prev_sample, atol=1e-5, rtol=1e-5)
        x = step.x_next
    assert step.t == timesteps[0]


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("steps", [1, 10, 250])
def test_ddim_equals_diffusers(diffusers, steps, clip, eta):
    oracle = in_double(diffusers.DDIMScheduler(clip_sample=clip, timestep_spacing="trailing"))
    oracle.set_timesteps(steps)
    tape, x = Tape(), X_T
    for t, step in zip(oracle.timesteps.tolist(), ddim(wavy, X_T, SCHEDULE, steps, eta, clip, tape), strict=True):
        # The oracle too must take ε anew from the clipped x̂_0; it draws noise in the last step, but scales it by 0.
        noise = tape.given[-1] if tape.given else torch.zeros_like(x)
        theirs = oracle.step(wavy_noise(x, t), t, x, eta, clip, variance_noise=noise)
        assert step.t == t
        torch.testing.assert_close(step.x_next, theirs.prev_sample, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(step.x_0, theirs.pred_original_sample, atol=1e-5, rtol=1e-4)
        x = step.x_next


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the oracle's own
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("timesteps", [*(SCHEDULE.respaced(n) for n in (1, 2, 10, 20, 50)), [0, 9, 150, 420, 999]])
def test_dpm_solver_equals_diffusers(diffusers, timesteps, clip):
    oracle = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        thresholding=clip,
        sample_max_value=1.0,  # their dynamic threshold, held at 1, is a clip
    )
    in_double(oracle)
    oracle.set_timesteps(timesteps=timesteps[::-1])
    alpha_bar = oracle.alphas_cumprod[timesteps[::-1]]
    oracle.sigmas = torch.cat([((1 - alpha_bar) / alpha_bar).sqrt(), torch.zeros(1)])  # set_timesteps made them single
    x = X_T
    for t, step in zip(timesteps[::-1], dpm_solver_pp(wavy, X_T, SCHEDULE, timesteps, clip), strict=True):
        x = oracle.step(wavy_noise(x, t), t, x).prev_sample
        assert step.t == t
        torch.testing.assert_close(step.x_next, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 10, 250])
def test_inversion_has_the_levels_of_diffusers(diffusers, steps):
    oracle = in_double(diffusers.DDIMInverseScheduler(clip_sample=False, timestep_spacing="trailing"))
    oracle.set_timesteps(steps)
    targets, x = oracle.timesteps.tolist(), X_T.tanh()
    for t, step in zip(targets, ddim_invert(wavy, X_T.tanh(), SCHEDULE, steps), strict=True):
        # Their step names the level it reaches, ours the one it leaves, where ε is better asked for.
        x = oracle.step(wavy_noise(x, step.t), t, x).prev_sample
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


@pytest.mark.parametrize(("steps", "tolerance"), [(100, 0.08), (1000, 0.02)])
def test_ddpm_has_the_mean_and_the_spread_of_a_gaussian(steps, tolerance):
    x = last(ddpm(gaussian(0.3, 0.5), normal(10_000), SCHEDULE, steps, Tape()))
    assert x.mean().item() == pytest.approx(0.3, abs=0.015)
    assert x.std().item() == pytest.approx(0.5, rel=tolerance)


@pytest.mark.parametrize(
    "sample",
    [
        lambda denoise, x_T: ddpm(denoise, x_T, SCHEDULE, 200, Tape()),
        lambda denoise, x_T: ddim(denoise, x_T, SCHEDULE, 200),
        lambda denoise, x_T: ddim(denoise, x_T, SCHEDULE, 200, eta=0.5, noise=Tape()),
        lambda denoise, x_T: dpm_solver_pp(denoise, x_T, SCHEDULE, 50),
    ],
    ids=["ddpm", "ddim", "eta=0.5", "dpm++"],
)
def test_modes_get_their_mass_and_place(sample):
    x = last(sample(GaussianMixture([0.3, 0.7], [-0.8, 0.6], 0.15), normal(10_000)))
    assert (x < 0).double().mean().item() == pytest.approx(0.3, abs=0.015)
    assert x[x < 0].mean().item() == pytest.approx(-0.8, abs=0.015)
    assert x[x > 0].mean().item() == pytest.approx(0.6, abs=0.015)
    assert x[x > 0].std().item() == pytest.approx(0.15, rel=0.15)


# ------------------------------------------------------------------------------------------- there and back


def round_trip_error(steps: int | list[int], **inversion: float) -> float:
    denoise = GaussianMixture([0.3, 0.7], [-0.8, 0.6], 0.3)
    x_0 = torch.linspace(-1, 1, 21, dtype=torch.float64)[:, None]
    x_T = last(ddim_invert(denoise, x_0, SCHEDULE, steps, **inversion))
    return (last(ddim(denoise, x_T, SCHEDULE, steps)) - x_0).square().mean().sqrt().item()


def test_inversion_of_a_gaussian_is_the_ode_backwards():
    x_T = normal(64)
    start = last(ddim_invert(gaussian(0.3, 0.5), ode_map(x_T, 0.3, 0.5), SCHEDULE, 1000))
    torch.testing.assert_close(start, x_T, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(("refine", "order"), [(0, 1), (1, 2)])
def test_inversion_is_of_first_order_and_of_second_with_one_refinement(refine, order):
    ratio = round_trip_error(50, refine=refine) / round_trip_error(100, refine=refine)
    assert math.log2(ratio) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_one_refinement_brings_inversion_closer(steps):
    assert round_trip_error(steps, refine=1) < round_trip_error(steps) / 2


def test_refinements_solve_for_the_exact_inverse():
    errors = [round_trip_error(50, refine=r) for r in (0, 1, 3, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


def test_round_trip_is_exact_in_the_limit_of_all_steps():
    assert round_trip_error(1000) < 5e-3
    assert round_trip_error(1000, refine=1) < 5e-5


@pytest.mark.parametrize(("refine", "calls"), [(0, 10), (1, 11), (3, 31)])
def test_inversion_costs_what_it_says(refine, calls):
    asked: list[int] = []

    def counting(x: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        return wavy(x, t)

    last(ddim_invert(counting, X_T, SCHEDULE, 10, refine))
    assert len(asked) == calls
    assert asked[0] == 0


def test_inversion_written_out_in_place():
    """Step k takes the k-th of the levels 1, ᾱ_9, ᾱ_19, ... to the next one, with the ε of the state that it leaves."""
    schedule = NoiseSchedule(100)
    timesteps = [0, *schedule.respaced(10)]
    alpha_bar, x = [1.0, *(schedule.exact_alpha_bar[t] for t in timesteps[1:])], X_T.tanh()
    for k, step in enumerate(ddim_invert(wavy, x, schedule, 10)):
        known = schedule.exact_alpha_bar[timesteps[k]]  # the level at which ε is asked for: t = 0 for x_0 itself
        eps = (x - math.sqrt(known) * wavy(x, torch.full((3,), timesteps[k]))) / math.sqrt(1 - known)
        x_0 = (x - math.sqrt(1 - alpha_bar[k]) * eps) / math.sqrt(alpha_bar[k])
        x = math.sqrt(alpha_bar[k + 1]) * x_0 + math.sqrt(1 - alpha_bar[k + 1]) * eps
        assert step.t == timesteps[k]
        torch.testing.assert_close(step.x_next, x)
        torch.testing.assert_close(step.x_0, x_0)
    assert k == 9


# ------------------------------------------------------------------------------------------- the noise


def test_image_k_is_the_same_at_any_batch_size():
    x_T = NoiseSource(7, range(5))((5, 2, 4, 4))
    assert torch.equal(x_T[3:], NoiseSource(7, [3, 4])((2, 2, 4, 4)))

    def sample(indices: list[int]) -> Tensor:
        noise = NoiseSource(7, indices)
        return last(ddim(wavy, noise((len(indices), 2, 4, 4)), SCHEDULE, 10, eta=0.7, noise=noise))

    torch.testing.assert_close(sample([0, 1, 2])[1:2], sample([1]), atol=1e-6, rtol=1e-6)


def test_noise_differs_between_images_seeds_and_calls():
    noise = NoiseSource(0, [0, 1])
    draws = torch.cat([noise((2, 1000)), noise((2, 1000)), NoiseSource(1, [0, 1])((2, 1000))])
    assert (draws.corrcoef() - torch.eye(6)).abs().max() < 0.15


def test_noise_is_standard_normal():
    noise = NoiseSource(0, range(100))((100, 1000))
    assert noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def test_seeds_that_differ_beyond_32_bits_give_other_noise():
    assert not torch.equal(NoiseSource(5, [0])((1, 8)), NoiseSource(5 + 2**32, [0])((1, 8)))


# ------------------------------------------------------------------------------------------- the contract

SAMPLERS = [
    lambda x, steps, **options: ddpm(wavy, x, SCHEDULE, steps, Tape(), **options),
    lambda x, steps, **options: ddim(wavy, x, SCHEDULE, steps, **options),
    lambda x, steps, **options: dpm_solver_pp(wavy, x, SCHEDULE, steps, **options),
    lambda x, steps, **options: ddim_invert(wavy, x, SCHEDULE, steps, **options),
]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("shape", [(2, 1, 3, 5), (2, 6)])
def test_every_step_is_yielded_and_joins_the_next(sampler, shape):
    x = torch.randn(shape, dtype=torch.float64)
    steps = list(sampler(x, 7))
    assert len(steps) == 7
    assert torch.equal(steps[0].x_t, x)
    assert all(torch.equal(a.x_next, b.x_t) for a, b in pairwise(steps))
    assert torch.equal(last(sampler(x, 7)), steps[-1].x_next)


@pytest.mark.parametrize("sampler", SAMPLERS[:3])
def test_clipped_samples_stay_in_range(sampler):
    steps = list(sampler(3 * X_T, 20, clip=True))
    assert max(step.x_0.abs().max() for step in steps) == 1
    assert torch.equal(steps[-1].x_next, steps[-1].x_0)
    assert max(step.x_0.abs().max() for step in sampler(3 * X_T, 20)) > 1.1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [[], [5, 5], [9, 3], [-1, 4], [4, 1000]])
def test_impossible_timesteps_are_refused(sampler, steps):
    with pytest.raises(InvalidOptionError, match=r"steps are \[.*timesteps that increase within 0\.\.999"):
        next(sampler(X_T, steps))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_steps_than_timesteps_are_refused(sampler):
    with pytest.raises(InvalidOptionError, match=r"steps is 1001; .*choose 1\.\.1000"):
        next(sampler(X_T, 1001))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: next(ddim(wavy, X_T, SCHEDULE, 5, eta=1.5)), "eta is 1.5; choose 0"),
        (
            lambda: next(ddim(wavy, X_T, SCHEDULE, 5, eta=0.5)),
            "eta is 0.5 but there is no noise; pass noise=NoiseSource",
        ),
        (lambda: next(ddim_invert(wavy, X_T, SCHEDULE, 5, refine=-1)), "refine is -1; choose 0"),
        (lambda: sample_steps("ddpm", wavy, X_T, SCHEDULE, 5), "sampler ddpm is random; pass noise=NoiseSource"),
        (lambda: NoiseSource(-1, [0]), "seed is -1 .*use numbers >= 0"),
        (lambda: NoiseSource(0, [2, -3]), r"indices are \[2, -3\]"),
    ],
)
def test_impossible_options_are_refused(run, message):
    with pytest.raises(InvalidOptionError, match=message):
        run()


def test_noise_for_another_batch_size_is_refused():
    with pytest.raises(ValueError, match="3 rows of noise were asked of a source for 2 images"):
        NoiseSource(0, [0, 1])((3, 4))


def test_samplers_have_names(monkeypatch):
    noise = NoiseSource(0, range(3))((3, 2, 4, 4)).double()
    for name, expected in (
        ("ddpm", ddpm(wavy, X_T, SCHEDULE, 5, lambda _: noise, clip=True)),
        ("ddim", ddim(wavy, X_T, SCHEDULE, 5, eta=0.5, clip=True, noise=lambda _: noise)),
        ("dpm++", dpm_solver_pp(wavy, X_T, SCHEDULE, 5, clip=True)),
    ):
        sources = NoiseSource(0, range(3))
        monkeypatch.setattr(NoiseSource, "__call__", lambda *_: noise)
        found = sample_steps(name, wavy, X_T, SCHEDULE, 5, eta=0.5, clip=True, noise=sources)
        assert torch.equal(last(found), last(expected))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type check of the tests speaks first
    with pytest.raises(InvalidOptionError, match=r"unknown sampler 'euler'; choose ddpm, ddim or dpm\+\+"):
        sample_steps("euler", wavy, X_T, SCHEDULE, 5)
