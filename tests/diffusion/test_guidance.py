"""Guidance is a straight line through two predictions, of the clean data and of the noise alike."""

import pytest
import torch
from torch import Tensor

from patronus_pl.diffusion import NoiseSchedule, guided, weights_of_rows
from patronus_pl.errors import InvalidOptionError

X_T, LEFT, RIGHT = torch.randn(3, 4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
T_OF = torch.tensor([0, 300, 700, 999])
WEIGHTS = torch.tensor([0.0, 1.0, 2.5, -1.0])


def clean() -> Tensor:
    return guided(lambda x_t, t: LEFT, lambda x_t, t: RIGHT, WEIGHTS)(X_T, T_OF)


def test_a_line_through_both_predictions_of_clean_data() -> None:
    found, w = clean(), WEIGHTS[:, None, None, None]
    torch.testing.assert_close(found, LEFT + w * (RIGHT - LEFT), rtol=1e-5, atol=1e-5)
    assert torch.equal(found[0], LEFT[0])
    assert torch.equal(found[1], RIGHT[1])


def test_the_same_line_through_both_predictions_of_noise() -> None:
    schedule = NoiseSchedule()
    left, right, found = (schedule.noise_from_x_0(X_T, x_0, T_OF) for x_0 in (LEFT, RIGHT, clean()))
    torch.testing.assert_close(found, left + WEIGHTS[:, None, None, None] * (right - left), rtol=1e-4, atol=1e-4)


def test_one_weight_for_all() -> None:
    s = torch.zeros(3, 2)
    assert weights_of_rows(2.5, s, None).tolist() == [2.5, 2.5, 2.5]
    assert weights_of_rows(-1.0, s, s).tolist() == [-1, -1, -1]


def test_each_row_has_the_weight_of_what_changes() -> None:
    base = torch.zeros(4, 3)
    s = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [3.0, 0.0, 1.0]])
    found = weights_of_rows(torch.tensor([2.0, 4.0, 8.0]), s, base)
    assert found.tolist() == pytest.approx([4, 8, 1, (3 * 2 + 8) / 4])


@pytest.mark.parametrize(
    ("guidance", "words"),
    [
        (float("nan"), "guidance is nan; give numbers between -100 and 100"),
        (float("inf"), "guidance is inf"),
        (1e9, "guidance is 1000000000.0"),
        (torch.tensor([1.0, float("nan")]), "give numbers between -100 and 100"),
        (torch.ones(3), r"guidance has shape \(3,\) for 2 prototypes; give one number"),
        (torch.ones(1), r"guidance has shape \(1,\) for 2 prototypes"),
    ],
)
def test_impossible_weights(guidance: float | Tensor, words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        weights_of_rows(guidance, torch.zeros(4, 2), torch.ones(4, 2))


def test_weights_of_prototypes_need_a_base() -> None:
    with pytest.raises(InvalidOptionError, match="or with `base` one for each prototype"):
        weights_of_rows(torch.ones(2), torch.zeros(4, 2), None)
