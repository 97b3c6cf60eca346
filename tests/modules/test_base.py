import pytest
import torch

from patronus_pl.modules.base import StepDraw


def test_ranks_share_out_the_rows_of_one_draw() -> None:
    """Two devices with a batch of 3 each see the noise that one with a batch of 6 sees."""
    whole = StepDraw(torch.empty(6, 2), seed=1, step=5)
    halves = [StepDraw(torch.empty(3, 2), 1, 5, ranks=2, rank=number) for number in (0, 1)]
    noise, t = whole.normal((2,)), whole.timesteps(100)
    for number, half in enumerate(halves):
        assert torch.equal(half.normal((2,)), noise[number::2])
        assert torch.equal(half.timesteps(100), t[number::2])


def test_ranks_share_out_the_rows_of_a_smaller_draw() -> None:
    """Of three rows one rank has two."""
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
