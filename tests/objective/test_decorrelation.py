"""The decorrelation penalty against NumPy and closed forms."""

from typing import Any

import numpy as np
import pytest
import torch

from patronus_pl.errors import InvalidOptionError
from patronus_pl.objective import Decorrelation
from patronus_pl.objective.decorrelation import correlation, decorrelation_loss
from tests.objective.steps import make_step


@pytest.fixture
def activations() -> torch.Tensor:
    """100 rows of 5 dependent columns of very different scales."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=generator)
    return torch.randn(100, 5, generator=generator) @ mixing * torch.tensor([1e-3, 1, 5, 1e3, 1]) + torch.arange(5)


def test_correlation_is_numpys(activations: torch.Tensor) -> None:
    np.testing.assert_allclose(correlation(activations), np.corrcoef(activations.double().T), atol=1e-5)


def test_weighted_correlation_is_numpys(activations: torch.Tensor) -> None:
    weights = torch.rand(100, generator=torch.Generator().manual_seed(1)) * 5
    weights[:30] = 0
    covariance = np.cov(activations.double().T, aweights=weights.double())
    scale = np.sqrt(np.diag(covariance))
    expected = covariance / np.outer(scale, scale)
    np.testing.assert_allclose(correlation(activations, weights), expected, atol=1e-5)
    np.testing.assert_allclose(correlation(activations, 100 * weights), expected, atol=1e-5)
    np.testing.assert_allclose(correlation(activations, torch.ones(100)), correlation(activations), atol=1e-6)
    squared = expected**2
    loss = np.mean([squared[j].sum() - 1 for j in range(5)])
    assert decorrelation_loss(activations, weights).item() == pytest.approx(loss, abs=1e-5)


def test_whole_weights_count_rows(activations: torch.Tensor) -> None:
    counts = torch.arange(100) % 4
    repeated = activations.repeat_interleave(counts, 0)
    np.testing.assert_allclose(correlation(activations, counts.float()), np.corrcoef(repeated.double().T), atol=1e-5)


def test_without_any_weight_nothing_is_correlated(activations: torch.Tensor) -> None:
    activations.requires_grad_()
    loss = decorrelation_loss(activations, torch.zeros(100))
    loss.backward()
    assert loss.item() == 0
    assert activations.grad is not None
    assert not activations.grad.any()


@pytest.mark.parametrize("value", [0.0, 0.3, 9.2103, 1e-3])
def test_constant_columns_are_correlated_with_nothing(activations: torch.Tensor, value: float) -> None:
    """Two of them: the mean of 100 equal floats is off by a rounding error, the same one in both."""
    activations[:, [1, 3]] = value
    found = correlation(activations)
    others = [0, 2, 4]
    np.testing.assert_allclose(found[[1, 3]], 0, atol=1e-3)
    np.testing.assert_allclose(found[others][:, others], np.corrcoef(activations[:, others].double().T), atol=1e-5)


def test_decorrelation_is_numpys(activations: torch.Tensor) -> None:
    squared = np.corrcoef(activations.double().T) ** 2
    expected = np.mean([squared[j].sum() - squared[j, j] for j in range(5)])
    assert decorrelation_loss(activations).item() == pytest.approx(expected, abs=1e-5)


def test_decorrelation_ranges_from_none_to_all() -> None:
    s = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    assert decorrelation_loss(s).item() == 0  # a single prototype
    assert decorrelation_loss(torch.cat([s, -2 * s, s + 7], 1)).item() == pytest.approx(2, abs=1e-4)


def test_decorrelation_above_its_floor_is_numpys(activations: torch.Tensor) -> None:
    found = np.corrcoef(activations.double().T)
    beyond = np.where(found > 0, found, np.minimum(found + 0.3, 0))
    expected = np.mean([(beyond[j] ** 2).sum() - 1 for j in range(5)])
    assert (found < -0.3).any()
    assert decorrelation_loss(activations, floor=-0.3).item() == pytest.approx(expected, abs=1e-5)


def test_one_of_three_costs_nothing() -> None:
    """A switch for each of three equally frequent values: every pair has correlation -½."""
    one_of_three = torch.eye(3).repeat(8, 1)
    assert decorrelation_loss(one_of_three, floor=-0.5).item() == pytest.approx(0, abs=1e-6)
    assert decorrelation_loss(one_of_three).item() == pytest.approx(0.5, abs=1e-6)


def test_the_opposite_of_a_prototype_is_no_other_prototype() -> None:
    s = torch.randn(50, 1, generator=torch.Generator().manual_seed(0))
    assert decorrelation_loss(torch.cat([s, -s], 1), floor=-0.5).item() == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("floor", [0.0, -0.3])
def test_value_is_the_loss_of_the_activations_of_all_ranks(activations: torch.Tensor, floor: float) -> None:
    found = np.corrcoef(activations.double().T)
    squared = (found - np.clip(found, floor, 0)) ** 2
    value = Decorrelation(floor=floor).value(make_step(activations))
    assert value.item() == pytest.approx((squared.sum() - np.trace(squared)) / 5, abs=1e-5)


def test_value_is_balanced_by_the_attributes_that_were_counted(activations: torch.Tensor) -> None:
    """The penalty is NumPy's under weights 4/6 and 4/2: cells hold 6, 6, 2 and 2 of 16 images instead of 4 each."""
    hair, smile = torch.zeros(16), torch.zeros(16)
    hair[:8], smile[:6], smile[14:] = 1, 1, 1
    attributes, s = torch.stack([torch.zeros(16), hair, smile], 1), activations[:16]
    penalty = Decorrelation(balance=["Smile", "Hair"])
    penalty.prepare(("Hat", "Hair", "Smile"), lambda: attributes)
    covariance = np.cov(s.double().T, aweights=np.where(hair == smile, 4 / 6, 2.0))
    found = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    squared = (found - np.clip(found, penalty.floor, 0)) ** 2
    value = penalty.value(make_step(s, attributes=attributes))
    assert value.item() == pytest.approx((squared.sum() - np.trace(squared)) / 5, abs=1e-5)


def test_without_balance_attributes_are_not_looked_at(activations: torch.Tensor) -> None:
    penalty, attributes = Decorrelation(), torch.eye(100, 3)
    penalty.prepare((), lambda: pytest.fail("nothing is to be counted"))
    assert torch.equal(
        penalty.value(make_step(activations, attributes=attributes)), penalty.value(make_step(activations))
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"floor": 0.5}, r"objective.decorrelation.floor is 0.5; a correlation in \[-1, 0\] is wanted"),
        ({"floor": -1.5}, r"objective.decorrelation.floor is -1.5"),
        ({"weight": -0.1}, r"objective.decorrelation.weight is -0.1; it must not be negative"),
        ({"balance": ["Hair"]}, r"decorrelation.balance is \['Hair'\]; name 2 to 8 different attributes"),
        (
            {"balance": ["Hair", "Hat"], "weight": 0.0},
            r"balance is of no use while .*decorrelation.weight is 0; raise it",
        ),
    ],
)
def test_impossible_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        Decorrelation(**options)


def test_gradients_stay_finite_where_a_prototype_is_dead(activations: torch.Tensor) -> None:
    activations[:, 2] = 0
    activations.requires_grad_()
    decorrelation_loss(activations).backward()
    assert activations.grad is not None
    assert activations.grad.isfinite().all()
    assert activations.grad[:, [0, 1, 3, 4]].any()
