import warnings
from types import ModuleType

import jaxtyping
import numpy as np
import pytest
import torch

from patronus_pl.diffusion.schedule import NoiseSchedule
from patronus_pl.errors import InvalidOptionError

SHAPES = [(3, 2, 4, 5), (3, 7), (3,)]
T_OF = torch.tensor([0, 41, 99])


@pytest.fixture(scope="module")
def diffusers() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: ModuleType = pytest.importorskip("diffusers", reason="diffusers is the oracle of these tests")
        module.DDPMScheduler  # noqa: B018 - its classes are imported when first named, with warnings of their own
    return module


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"beta_schedule": "linear"}),
        ({"kind": "cosine"}, {"beta_schedule": "squaredcos_cap_v2"}),
        (
            {"timesteps": 100, "beta_start": 1e-3, "beta_end": 0.2},
            {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.2},
        ),
    ],
)
def test_tables_equal_those_of_diffusers(diffusers, ours, theirs):
    schedule, oracle = NoiseSchedule(**ours), diffusers.DDPMScheduler(**theirs)
    torch.testing.assert_close(schedule.beta, oracle.betas, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(schedule.alpha_bar, oracle.alphas_cumprod, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_noisy_data_and_velocity_equal_those_of_diffusers(diffusers, shape):
    schedule, oracle = NoiseSchedule(100), diffusers.DDPMScheduler(100)
    x_0, noise = torch.randn(shape), torch.randn(shape)
    x_t, v = oracle.add_noise(x_0, noise, T_OF), oracle.get_velocity(x_0, noise, T_OF)
    torch.testing.assert_close(schedule.add_noise(x_0, noise, T_OF), x_t)
    torch.testing.assert_close(schedule.x_0_from_velocity(v, x_t, T_OF), x_0, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("shape", SHAPES)
def test_conversions_lead_back(shape, kind):
    schedule = NoiseSchedule(100, kind)
    x_0, noise = torch.rand(shape) * 2 - 1, torch.randn(shape)
    x_t = schedule.add_noise(x_0, noise, T_OF)
    signal, rest = (
        table[T_OF].reshape(-1, *[1] * (len(shape) - 1)) for table in (schedule.signal_scale, schedule.noise_scale)
    )
    v = signal * noise - rest * x_0
    torch.testing.assert_close(schedule.x_0_from_velocity(v, x_t, T_OF), x_0, atol=1e-6, rtol=1e-5)
    # √(1-ᾱ) is 0.01 at the start of the linear schedule, √ᾱ 5e-4 at the end of the cosine one: rounding errors of x_t
    # grow by their inverses.
    torch.testing.assert_close(schedule.noise_from_x_0(x_t, x_0, T_OF), noise, atol=1e-4, rtol=0)
    torch.testing.assert_close(schedule.x_0_from_noise(x_t, noise, T_OF), x_0, atol=1e-3, rtol=0)


def test_levels_in_closed_form():
    beta = np.linspace(1e-4, 0.02, 1000)
    schedule = NoiseSchedule()
    np.testing.assert_allclose(schedule.exact_alpha_bar, np.cumprod(1 - beta), rtol=1e-12)
    t = torch.tensor([0, 500, 999])
    alpha_bar = np.cumprod(1 - beta)[t.numpy()]
    np.testing.assert_allclose(schedule.snr(t).numpy(), alpha_bar / (1 - alpha_bar), rtol=1e-6)


def test_first_level_keeps_its_precision():
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    x_t = NoiseSchedule().add_noise(zero, one, torch.tensor([0]))
    assert x_t.item() == pytest.approx(0.01, rel=1e-6)


def test_cosine_schedule_follows_its_equation():
    t = np.arange(1001)
    f = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    schedule = NoiseSchedule(1000, "cosine")
    np.testing.assert_allclose(schedule.exact_alpha_bar[:-1], (f / f[0])[1:-1], rtol=1e-9)
    assert schedule.beta[-1].item() == pytest.approx(0.999)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_one_timestep_is_enough(kind):
    schedule = NoiseSchedule(1, kind)
    assert schedule.respaced(1) == [0]
    assert 0 < schedule.exact_alpha_bar[0] < 1


@pytest.mark.parametrize("steps", [1, 2, 8, 10, 20, 50, 500, 1000])
def test_respaced_equals_trailing_spacing_of_diffusers(diffusers, steps):
    oracle = diffusers.DDIMScheduler(timestep_spacing="trailing")
    oracle.set_timesteps(steps)
    assert NoiseSchedule().respaced(steps) == oracle.timesteps.flip(0).tolist()


@pytest.mark.parametrize("steps", range(1, 101))
def test_respaced_is_even_and_ends_at_the_noisiest(steps):
    timesteps = NoiseSchedule(100).respaced(steps)
    gaps = np.diff([-1, *timesteps])
    assert len(timesteps) == steps
    assert timesteps[-1] == 99
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_all_steps_are_every_timestep(spacing):
    assert NoiseSchedule(100, spacing=spacing).respaced(100) == list(range(100))


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 50, 400, 999, 1000])
def test_quadratic_steps_are_ddims_quadratic_ones_up_to_the_noisiest(steps):
    """DDIM's are c k² for some c; here the last is T-1, and none comes twice."""
    timesteps = NoiseSchedule(spacing="quadratic").respaced(steps)
    expected = np.maximum(np.linspace(0, 999**0.5, steps) ** 2 if steps > 1 else [999], np.arange(steps))
    assert np.abs(np.array(timesteps) - expected).max() <= 0.5 + 1e-9
    assert (len(timesteps), timesteps[-1]) == (steps, 999)
    assert np.diff([-1, *timesteps]).min() >= 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_data_keep_their_dtype(dtype):
    x = torch.ones(3, 2, dtype=dtype)
    assert NoiseSchedule(100).add_noise(x, x, T_OF).dtype == dtype


def test_tables_move_with_the_module_but_are_not_saved():
    schedule = NoiseSchedule(10)
    assert not schedule.state_dict()
    assert {name for name, table in schedule.to("meta").named_buffers() if table.is_meta} == {
        "beta",
        "alpha_bar",
        "signal_scale",
        "noise_scale",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timesteps": 0}, "timesteps is 0; .* at least 1"),
        ({"beta_start": 0.0}, "beta_start is 0.0 .*0 < beta_start"),
        ({"beta_end": 1.0}, "beta_end 1.0; .*beta_end < 1"),
        ({"beta_start": 0.03}, "beta_start is 0.03 and beta_end 0.02"),
    ],
)
def test_impossible_schedules_are_refused(arguments, message):
    with pytest.raises(InvalidOptionError, match=message):
        NoiseSchedule(**arguments)


def test_unknown_kinds_and_spacings_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type check of the tests speaks first
    with pytest.raises(InvalidOptionError, match="spacing of steps 'karras'; choose uniform or quadratic"):
        NoiseSchedule(spacing="karras")
    with pytest.raises(InvalidOptionError, match="kind 'sigmoid'; choose linear or cosine"):
        NoiseSchedule(kind="sigmoid")


@pytest.mark.parametrize("steps", [0, -1, 101])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(InvalidOptionError, match=rf"steps is {steps}; .* 100 timesteps, so choose 1\.\.100"):
        NoiseSchedule(100).respaced(steps)
