import math

import numpy as np
import pytest
import torch

from patronus_pl.prototypes import (
    correlation,
    decorrelation_loss,
    distinctness_loss,
    independence_loss,
)


@pytest.fixture
def activations() -> torch.Tensor:
    """100 rows of 5 dependent columns of very different scales."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=generator)
    return torch.randn(100, 5, generator=generator) @ mixing * torch.tensor([1e-3, 1, 5, 1e3, 1]) + torch.arange(5)


def test_correlation_is_numpys(activations: torch.Tensor) -> None:
    np.testing.assert_allclose(correlation(activations), np.corrcoef(activations.double().T), atol=1e-5)


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


def test_a_dead_prototype_is_independent(activations: torch.Tensor) -> None:
    alive = independence_loss(activations[:, :4])
    activations[:, 4] = 9.2103
    dead = independence_loss(activations.requires_grad_())
    assert dead.item() == pytest.approx(alive.item() * 4 / 5, rel=1e-2)  # a mean over 5 of which 1 adds nothing
    dead.backward()
    assert activations.grad is not None
    assert activations.grad.isfinite().all()


def test_gradients_stay_finite_where_a_prototype_is_dead(activations: torch.Tensor) -> None:
    activations[:, 2] = 0
    activations.requires_grad_()
    decorrelation_loss(activations).backward()
    assert activations.grad is not None
    assert activations.grad.isfinite().all()
    assert activations.grad.any()


def directions(*degrees: float) -> torch.Tensor:
    """Vectors in the plane, of different lengths."""
    radians = [math.radians(angle) for angle in degrees]
    return torch.tensor([[length * math.cos(a), length * math.sin(a)] for length, a in enumerate(radians, start=1)])


@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("angle", [0.0, 10.0, 40.0, 90.0, 150.0, 180.0])
def test_distinctness_of_two(angle: float, margin: float) -> None:
    expected = max(0.0, margin - (1 - abs(math.cos(math.radians(angle)))))
    assert distinctness_loss(directions(0, angle), margin).item() == pytest.approx(expected, abs=1e-6)


def test_distinctness_takes_the_nearest_of_each() -> None:
    """At 0°, 20° and 80° the nearest are 20°, 0° and 20°, at 20°, 20° and 60°."""
    nearest = [math.cos(math.radians(angle)) for angle in (20, 20, 60)]
    expected = sum(max(0.0, 0.7 - (1 - cosine)) for cosine in nearest) / 3
    assert distinctness_loss(directions(0, 20, 80), 0.7).item() == pytest.approx(expected, abs=1e-6)


def test_distinctness_pushes_near_duplicates_apart() -> None:
    vectors = directions(0, 5).requires_grad_()
    before = distinctness_loss(vectors, 0.5)
    before.backward()
    assert vectors.grad is not None
    assert distinctness_loss(vectors.detach() - 0.1 * vectors.grad, 0.5) < before


def test_a_single_prototype_is_distinct() -> None:
    vectors = torch.rand(1, 4, requires_grad=True)
    loss = distinctness_loss(vectors, 1.0)
    loss.backward()
    assert loss.item() == 0


def two_coins() -> torch.Tensor:
    """Every outcome of two fair coins, ±1: independent exactly."""
    return torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])


@pytest.mark.parametrize("scale", [1.0, 1e-2, 50.0])
def test_independent_concepts_cost_nothing_and_mixed_ones_do(scale: float) -> None:
    """(a + b, a - b) is uncorrelated too, but one is 0 when the other is not: corr(z_1², z_2²) = -1, z_1 z_2³ = 0."""
    apart = scale * two_coins() + 3
    mixed = apart @ torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert decorrelation_loss(mixed).item() == pytest.approx(0, abs=1e-6)
    assert independence_loss(apart).item() == pytest.approx(0, abs=1e-5)
    assert independence_loss(mixed).item() == pytest.approx(1, abs=1e-4)


def test_independence_equals_numpys_moments(activations: torch.Tensor) -> None:
    x = activations.double().numpy()
    z = (x - x.mean(0)) / x.std(0)
    squares, cubic = np.corrcoef((z**2).T) ** 2, (z.T @ z**3 / len(z) / 3) ** 2
    off = ~np.eye(5, dtype=bool)
    assert independence_loss(activations.double()).item() == pytest.approx((squares + cubic)[off].sum() / 5, rel=1e-5)


def test_one_prototype_is_independent() -> None:
    assert independence_loss(torch.randn(10, 1)).item() == 0
