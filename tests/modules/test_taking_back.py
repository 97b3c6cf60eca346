import torch
from patronus_pl.modules.taking_back import LESS, TakenBack

from patronus_pl.modules.base import StepDraw


def activations(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def taken(own: torch.Tensor, other: torch.Tensor, step: int = 0) -> TakenBack:
    return TakenBack.of(own, other, StepDraw(own, 0, step))


def test_one_prototype_of_half_the_rows_takes_the_lesser_value() -> None:
    own, other = activations(40, 0), activations(40, 1)
    found = taken(own, other)
    assert found.condition.shape == (20, 5)
    assert found.valid.sum() > 15
    for i in range(20):
        j = int(found.prototype[i])
        untouched = [k for k in range(5) if k != j]
        assert torch.equal(found.condition[i, untouched], own[i, untouched])
        assert found.condition[i, j] == other[i, j]
        assert torch.equal(found.change[i], found.condition[i] - own[i])
        assert (other[i, j] < own[i, j] - LESS) == found.valid[i]


def test_every_prototype_that_the_other_has_less_of_has_its_chance() -> None:
    own, other = torch.zeros(400, 5), torch.tensor([-1.0, 1.0, -1.0, -0.05, -1.0]).repeat(400, 1)
    counts = taken(own, other).prototype.bincount(minlength=5)
    assert counts[[1, 3]].tolist() == [0, 0]
    assert (counts[[0, 2, 4]] - 200 / 3).abs().max() < 4 * (200 * 2 / 9) ** 0.5


def test_rows_of_which_nothing_can_be_taken_are_named() -> None:
    own = activations(8, 0)
    assert not taken(own, own + 1).valid.any()
    assert not taken(own, own).valid.any()
    assert taken(own, own - 1).valid.all()


def test_ranks_take_back_what_one_device_does() -> None:
    own, other = activations(16, 0), activations(16, 1)
    whole = taken(own, other)
    for rank in range(2):
        rows = slice(rank, None, 2)
        part = TakenBack.of(own[rows], other[rows], StepDraw(own[rows], 0, 0, 2, rank))
        torch.testing.assert_close(part.condition, whole.condition[rows])
