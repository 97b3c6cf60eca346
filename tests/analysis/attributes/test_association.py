"""φ and its intervals against NumPy's correlation and a plain bootstrap; which findings to believe."""

import numpy as np
import pytest
import torch
from torch import Tensor

from patronus_pl.analysis.attributes.association import adjusted, associate, bootstrap_means
from patronus_pl.errors import InvalidOptionError


def tied(n: int = 400, agree: float = 0.8, seed: int = 0) -> Tensor:
    """Two attributes that agree on a share of the images, and one on its own."""
    rng = np.random.default_rng(seed)
    first = rng.random(n) < 0.5
    second = np.where(rng.random(n) < agree, first, ~first)
    return torch.from_numpy(np.stack([first, second, rng.random(n) < 0.3], 1).astype(np.float32))


def test_phi_is_the_correlation_of_the_columns() -> None:
    y = tied()
    np.testing.assert_allclose(associate(y).phi, np.corrcoef(y.numpy().T), atol=1e-6)


def test_unknown_values_leave_an_image_out_of_its_pairs() -> None:
    y = tied()
    y[:100, 0] = torch.nan
    found = associate(y)
    assert found.phi[0, 1].item() == pytest.approx(np.corrcoef(y[100:, :2].numpy().T)[0, 1], abs=1e-6)
    assert found.phi[1, 2].item() == pytest.approx(np.corrcoef(y[:, 1:].numpy().T)[0, 1], abs=1e-6)
    assert found.share[0].item() == pytest.approx(y[100:, 0].mean().item())


def test_the_bootstrap_of_counts_is_that_of_images() -> None:
    """Ends of the interval, against rows drawn with replacement."""
    y = tied()
    rng, n = np.random.default_rng(1), len(y)
    drawn = [np.corrcoef(y[rng.integers(0, n, n), :2].numpy().T)[0, 1] for _ in range(2000)]
    found = associate(y, samples=2000)
    assert found.low[0, 1].item() == pytest.approx(np.quantile(drawn, 0.025), abs=0.01)
    assert found.high[0, 1].item() == pytest.approx(np.quantile(drawn, 0.975), abs=0.01)
    assert torch.equal(found.resampled, found.resampled.mT)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = []
    for seed in range(100):
        found = associate(tied(200, seed=seed), samples=300, seed=seed + 1000)
        covered.append(bool(found.low[0, 1] <= 0.6 <= found.high[0, 1]))
    assert 0.9 <= np.mean(covered) <= 1


def test_a_constant_attribute_has_no_phi() -> None:
    y = tied()
    y[:, 2] = 1
    found = associate(y)
    assert found.phi[2].isnan().all()
    assert found.low[2].isnan().all()


def hair() -> Tensor:
    """Black and blond hair exclude each other; who has black hair never smiles, and all others do."""
    black = torch.arange(90) < 30
    blond = (torch.arange(90) >= 30) & (torch.arange(90) < 60)
    return torch.stack([black, blond, ~black], dim=1).float()


def test_alternatives_of_one_question_are_a_group_and_a_shortcut_is_not() -> None:
    found = associate(hair(), ("Black_Hair", "Blond_Hair", "Smiling"))
    assert found.group.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    assert found.phi[0, 2].item() == pytest.approx(-1)


def test_attributes_that_chance_keeps_apart_are_no_group() -> None:
    y = torch.zeros(50, 2)
    y[0, 0] = y[1, 1] = 1
    assert not associate(y, ("Rare_Hat", "Rare_Coat_Hat")).group.any()


def test_classes_are_one_group_whatever_their_names() -> None:
    y = torch.eye(3).repeat(20, 1)
    assert torch.equal(associate(y, ("bird", "ship", "cat")).group, ~torch.eye(3, dtype=torch.bool))


def test_names_must_match() -> None:
    with pytest.raises(InvalidOptionError, match="2 names for 3 attributes"):
        associate(tied(), ("a", "b"))


def test_bootstrap_means_spread_like_the_standard_error() -> None:
    values = torch.randn(300, 2, 3, generator=torch.Generator().manual_seed(0))
    means = bootstrap_means(values, 4000)
    assert means.shape == (4000, 2, 3)
    torch.testing.assert_close(means.std(0), values.std(0) / 300**0.5, rtol=0.06, atol=0)
    torch.testing.assert_close(means.mean(0), values.mean(0), rtol=0, atol=0.005)


def test_q_values_of_the_example_by_hand() -> None:
    """q_i = min over k ≥ i of p_k n / k, with n = 4 tests; NaN is no test."""
    p = torch.tensor([[0.01, torch.nan], [0.02, 0.04], [0.5, torch.nan]])
    expected = torch.tensor([[0.04, torch.nan], [0.04, 0.04 * 4 / 3], [0.5, torch.nan]])
    torch.testing.assert_close(adjusted(p), expected, equal_nan=True)
    assert adjusted(torch.full((2,), torch.nan)).isnan().all()
