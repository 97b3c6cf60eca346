import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch

from patronus_pl.prototypes import (
    correlation,
    decorrelation_loss,
    distinctness_loss,
    faithfulness_loss,
    kurtosis_loss,
    looking_loss,
    sparsity_loss,
)


def test_sparsity_is_the_mean_magnitude_of_the_change() -> None:
    change = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = np.sqrt((change.double().numpy() ** 2).sum(1) + 1e-4).mean((1, 2))
    np.testing.assert_allclose(sparsity_loss(change), expected, rtol=1e-5)


def test_one_thing_each_is_sparser_than_a_share_of_two() -> None:
    """Two prototypes, two places that change by 1: one each; or, rotated by 45°, both in both, by √½."""
    places = torch.zeros(2, 1, 10, 10)
    places[0, 0, :5], places[1, 0, 5:] = 1, 1
    rotated = torch.stack([places[0] + places[1], places[0] - places[1]]) * math.sqrt(0.5)
    ratio = sparsity_loss(rotated).mean() / sparsity_loss(places).mean()
    assert ratio.item() == pytest.approx(math.sqrt(2), rel=0.02)


def test_faithfulness_is_the_squared_distance_of_the_changes() -> None:
    generator = np.random.default_rng(0)
    requested, realised = generator.normal(size=(2, 7, 5))
    found = faithfulness_loss(torch.from_numpy(requested), torch.from_numpy(realised))
    np.testing.assert_allclose(found, np.linalg.norm(requested - realised, axis=1) ** 2)


def test_an_edit_pays_for_what_is_missing_and_for_what_comes_along() -> None:
    requested = torch.tensor([[-2.0, 0, 0]])
    for realised, cost in (([-2.0, 0, 0], 0), ([-1.0, 0, 0], 1), ([-2.0, 0.5, -1], 1.25), ([0.0, 0, 0], 4)):
        assert faithfulness_loss(requested, torch.tensor([realised])).item() == cost


def test_looking_is_by_how_much_the_best_patch_beats_the_best_that_moves() -> None:
    generator = np.random.default_rng(0)
    similarity, effect = generator.normal(size=(4, 3, 5)), generator.random((4, 3, 5))
    share = np.maximum(effect / effect.max((1, 2), keepdims=True), 1e-3)
    best = scipy.special.logsumexp(2.5 * similarity, axis=(1, 2)) / 2.5
    moving = scipy.special.logsumexp(2.5 * similarity, axis=(1, 2), b=share**2.5) / 2.5
    found = looking_loss(torch.from_numpy(similarity), torch.from_numpy(effect), 2.5)
    np.testing.assert_allclose(found, best - moving)


def test_looking_elsewhere_costs_the_margin_and_descent_moves_the_look() -> None:
    similarity, effect = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    similarity[:, 0, 1], effect[0, 0, 1], effect[1, 2, 3] = 5.0, 0.4, 0.4
    similarity.requires_grad_()
    found = looking_loss(similarity, effect, 100.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 5.0]))  # 0 there, and log 0.001 = -6.9 for the best patch
    found.sum().backward()
    assert similarity.grad is not None
    assert similarity.grad[1, 0, 1].item() == pytest.approx(1)
    assert similarity.grad[1, 2, 3].item() == pytest.approx(-1)
    assert similarity.grad.abs().sum().item() == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("size", [0.0, 1e-6])
def test_looking_asks_nothing_while_nothing_moves(size: float) -> None:
    """Of effects that are rounding none is the largest: which patch moves is then unknown."""
    generator = torch.Generator().manual_seed(0)
    similarity, effect = torch.randn(2, 2, 3, 3, generator=generator, dtype=torch.float64)
    similarity.requires_grad_()
    looking_loss(similarity, size * effect.abs(), 10.0).sum().backward()
    assert similarity.grad is not None
    assert similarity.grad.abs().max() < 1e-12


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


@pytest.mark.parametrize("loss", [decorrelation_loss, kurtosis_loss])
def test_gradients_stay_finite_where_a_prototype_is_dead(
    activations: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    activations[:, 2] = 0
    activations.requires_grad_()
    loss(activations).backward()
    assert activations.grad is not None
    assert activations.grad.isfinite().all()
    assert activations.grad[:, [0, 1, 3, 4]].any()


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
    """(a + b, a - b) is uncorrelated too, but takes three values: z is 0 half the time, otherwise ±√2, and z⁴ 4."""
    apart = scale * two_coins() + 3
    mixed = apart @ torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert decorrelation_loss(mixed).item() == pytest.approx(0, abs=1e-6)
    assert kurtosis_loss(apart).item() == pytest.approx(0, abs=1e-5)
    assert kurtosis_loss(mixed).item() == pytest.approx(1, abs=1e-4)


def test_kurtosis_is_scipys(activations: torch.Tensor) -> None:
    expected = scipy.stats.kurtosis(activations.double().numpy(), fisher=False).mean() - 1
    assert kurtosis_loss(activations.double()).item() == pytest.approx(expected, rel=1e-5)
