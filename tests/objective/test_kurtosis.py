"""The kurtosis penalty against SciPy and closed forms."""

import pytest
import scipy.stats
import torch

from patronus_pl.objective import Kurtosis
from patronus_pl.objective.decorrelation import decorrelation_loss
from patronus_pl.objective.kurtosis import kurtosis_loss
from tests.objective.steps import make_step, normal


def two_coins() -> torch.Tensor:
    """Every outcome of two fair coins, ±1: independent exactly."""
    return torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])


@pytest.mark.parametrize("scale", [1.0, 1e-2, 50.0])
def test_independent_concepts_cost_nothing_and_mixed_ones_do(scale: float) -> None:
    """(a + b, a - b) is uncorrelated too, but takes three values: z is 0 half the time, otherwise ±√2, and z⁴ 4."""
    apart = scale * two_coins() + 3
    mixed = apart @ torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert decorrelation_loss(mixed).item() == pytest.approx(0, abs=1e-6)
    assert kurtosis_loss(apart).item() == pytest.approx(0, abs=1e-5)
    assert kurtosis_loss(mixed).item() == pytest.approx(1, abs=1e-4)


@pytest.fixture
def activations() -> torch.Tensor:
    """100 rows of 5 dependent columns of very different scales."""
    return normal(100, 5) @ normal(5, 5, seed=1) * torch.tensor([1e-3, 1, 5, 1e3, 1]) + torch.arange(5)


def test_kurtosis_is_scipys(activations: torch.Tensor) -> None:
    expected = scipy.stats.kurtosis(activations.double().numpy(), fisher=False).mean() - 1
    assert kurtosis_loss(activations.double()).item() == pytest.approx(expected, rel=1e-5)
    assert Kurtosis().value(make_step(activations)).item() == pytest.approx(expected, rel=1e-3)


def test_gradients_stay_finite_where_a_prototype_is_dead(activations: torch.Tensor) -> None:
    activations[:, 2] = 0
    activations.requires_grad_()
    kurtosis_loss(activations).backward()
    assert activations.grad is not None
    assert activations.grad.isfinite().all()
    assert activations.grad[:, [0, 1, 3, 4]].any()
