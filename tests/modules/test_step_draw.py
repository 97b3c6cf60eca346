import math

import numpy as np
import pytest
import torch

from patronus_pl.modules.step_draw import StepDraw
from tests.conftest import ModelFactory


def test_ranks_share_out_the_rows_of_one_draw() -> None:
    """Two devices with a batch of 3 each see the noise that one with a batch of 6 sees."""
    whole = StepDraw(torch.empty(6, 2), seed=1, step=5)
    halves = [StepDraw(torch.empty(3, 2), 1, 5, ranks=2, rank=number) for number in (0, 1)]
    noise, t, chance = whole.normal((2,)), whole.timesteps(100), whole.uniform(4)
    for number, half in enumerate(halves):
        assert torch.equal(half.normal((2,)), noise[number::2])
        assert torch.equal(half.timesteps(100), t[number::2])
        assert torch.equal(half.uniform(4), chance[number::2])


def test_ranks_share_out_the_rows_of_a_smaller_draw() -> None:
    """Three rows on two ranks: one of them has two."""
    whole = StepDraw(torch.empty(3, 2), seed=1, step=5)
    parts = [StepDraw(torch.empty(2 - rank, 2), 1, 5, ranks=2, rank=rank, total=3) for rank in (0, 1)]
    for expected, found in (
        (whole.normal((4,)), [part.normal((4,)) for part in parts]),
        (whole.timesteps(1000), [part.timesteps(1000) for part in parts]),
    ):
        assert all(torch.equal(found[rank], expected[rank::2]) for rank in (0, 1))


def test_draws_depend_on_seed_and_step_alone() -> None:
    draws = {
        (seed, step): StepDraw(torch.empty(4, 2), seed, step).normal((3,))
        for seed, step in [(0, 0), (0, 1), (1, 0), (0, 1 << 31), (1 << 32, 0)]
    }
    torch.manual_seed(123)
    for (seed, step), noise in draws.items():
        assert torch.equal(StepDraw(torch.empty(4, 2), seed, step).normal((3,)), noise)
    assert len({float(noise.sum()) for noise in draws.values()}) == len(draws)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_timesteps_are_stratified_and_follow_their_law(power: float) -> None:
    """P(t ≤ k) = ((k + 1) / T)^power."""
    t = StepDraw(torch.empty(1000, 1), 0, 0).timesteps(10_000, power)
    k = torch.arange(10_000)
    share = torch.searchsorted(t.sort().values, k, right=True) / len(t)
    # Independent draws of a thousand would be off by 0.03.
    torch.testing.assert_close(share.double(), ((k + 1) / 10_000).double() ** power, atol=2e-3, rtol=0)
    assert not torch.equal(t, t.sort().values)


def test_the_last_timestep_is_never_passed() -> None:
    t = StepDraw(torch.empty(5000, 1), 0, 0).timesteps(2, power=50.0)
    assert t.max() == 1


def test_every_timestep_is_drawn_and_every_batch_covers_all() -> None:
    batches = np.array([StepDraw(torch.empty(5, 1), 0, step).timesteps(10).tolist() for step in range(200)])
    assert set(batches.flatten()) == set(range(10))
    assert (np.sort(batches, 1) // 2 == np.arange(5)).all()  # one in each fifth
    counts = np.bincount(batches.flatten())
    assert abs(counts - 100).max() < 5 * math.sqrt(100 * 0.9)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_timesteps_of_many_steps_follow_the_law_too(power: float) -> None:
    """The timestep t is below k whenever u^(1/power) < k/T, which has the probability (k/T)^power."""
    t = torch.cat([StepDraw(torch.empty(50, 1), 0, step).timesteps(100, power) for step in range(100)]).numpy()
    for k in (1, 10, 50, 90):
        assert (t < k).mean() == pytest.approx((k / 100) ** power, abs=0.01)


def test_the_noisiest_come_first_if_asked_for() -> None:
    t = StepDraw(torch.empty(50, 1), 0, 0).timesteps(1000, power=1.5, descending=True)
    assert t.diff().max() < 0


def test_a_model_draws_by_its_seed(make_model: ModelFactory) -> None:
    x = torch.zeros(4, 1, 16, 16)

    def numbers(seed: int, step: int, batch: torch.Tensor) -> list[torch.Tensor]:
        draw = make_model(seed=seed).draw(batch, step)
        return [draw.timesteps(1000), draw.normal((1, 16, 16))]

    first = numbers(5, 17, x)
    assert all(torch.equal(a, b) for a, b in zip(first, numbers(5, 17, x + 1), strict=True))
    for seed, step in ((5, 18), (6, 17)):
        assert not torch.equal(first[1], numbers(seed, step, x)[1])
