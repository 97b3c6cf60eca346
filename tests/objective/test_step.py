"""Which prototype is taken back, and what a step without an edit says."""

import pytest
import torch

from patronus_pl.modules.step_draw import StepDraw
from patronus_pl.objective import take_back
from patronus_pl.objective.step import LESS
from tests.objective.steps import make_edit, make_step, normal


def chance(rows: int) -> torch.Tensor:
    return torch.rand(rows, 5, generator=torch.Generator().manual_seed(7))


def test_one_prototype_takes_the_lesser_value() -> None:
    own, other = normal(20, 5), normal(20, 5, seed=1)
    condition, prototype, valid = take_back(own, other, chance(20))
    assert condition.shape == (20, 5)
    assert valid.sum() > 15
    for i in range(20):
        j = int(prototype[i])
        untouched = [k for k in range(5) if k != j]
        assert torch.equal(condition[i, untouched], own[i, untouched])
        assert condition[i, j] == other[i, j]
        assert (other[i, j] < own[i, j] - LESS) == valid[i]


def test_every_prototype_that_the_other_has_less_of_has_its_chance() -> None:
    own, other = torch.zeros(200, 5), torch.tensor([-1.0, 1.0, -1.0, -0.05, -1.0]).repeat(200, 1)
    counts = take_back(own, other, chance(200))[1].bincount(minlength=5)
    assert counts[[1, 3]].tolist() == [0, 0]
    assert (counts[[0, 2, 4]] - 200 / 3).abs().max() < 4 * (200 * 2 / 9) ** 0.5


def test_rows_of_which_nothing_can_be_taken_are_named() -> None:
    own = normal(8, 5)
    assert not take_back(own, own + 1, chance(8))[2].any()
    assert not take_back(own, own, chance(8))[2].any()
    assert take_back(own, own - 1, chance(8))[2].all()


def test_ranks_take_back_what_one_device_does() -> None:
    own, other = normal(16, 5), normal(16, 5, seed=1)
    whole = take_back(own, other, StepDraw(own, 0, 0).uniform(5))[0]
    for rank in range(2):
        rows = slice(rank, None, 2)
        part = take_back(own[rows], other[rows], StepDraw(own[rows], 0, 0, 2, rank).uniform(5))[0]
        torch.testing.assert_close(part, whole[rows])


def test_a_step_without_an_edit_says_so() -> None:
    edit = make_edit()
    assert make_step(edit=edit).edited is edit
    with pytest.raises(ValueError, match="this step has no edit; set `judges_edits`"):
        _ = make_step().edited
