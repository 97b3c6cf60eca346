"""Weights that make tied attributes independent, against closed forms and NumPy."""

import math

import numpy as np
import pytest
import torch

from patronus_pl.errors import InvalidOptionError
from patronus_pl.objective.balancing import (
    Balance,
    balancing_weights,
    cells,
    check_names,
    columns_of,
    independent_frequencies,
    joint_frequencies,
)
from patronus_pl.objective.decorrelation import correlation, decorrelation_loss


def tied(rho: float, count: int = 800) -> torch.Tensor:
    """Two fair coins of correlation ρ: they agree in a share (1 + ρ) / 2 of the rows."""
    agree, differ = round(count * (1 + rho) / 4), round(count * (1 - rho) / 4)
    rows = [[0.0, 0.0]] * agree + [[1.0, 1.0]] * agree + [[0.0, 1.0]] * differ + [[1.0, 0.0]] * differ
    return torch.tensor(rows)


def test_cells_are_binary_numbers() -> None:
    rows = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1], [math.nan, 1, 1]])
    assert cells(rows).tolist() == [0, 1, 6, 7, -1]


def test_frequencies_are_numpys() -> None:
    """NumPy's joint histogram of three attributes of different shares, and the outer product of its marginals."""
    rng = np.random.default_rng(0)
    a = rng.random((500, 3)) < [0.2, 0.5, 0.7]
    a[:, 2] |= a[:, 0]
    joint = np.histogramdd(a[:, ::-1].astype(float), bins=2)[0] / 500  # the last attribute has the highest place
    found = joint_frequencies(torch.from_numpy(a).float())
    np.testing.assert_allclose(found, joint.ravel(), atol=1e-6)
    outer = np.einsum("i,j,k->ijk", *(np.array([1 - p, p]) for p in a.mean(0)[::-1]))
    np.testing.assert_allclose(independent_frequencies(found), outer.ravel(), atol=1e-6)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.75])
def test_weights_are_the_ratio_of_frequencies(rho: float) -> None:
    """P(a) p(b) is 1/4 in every cell, p(ab) is (1 ± ρ) / 4."""
    a = tied(rho)
    agree = 1 / (1 + rho)
    expected = torch.where(a[:, 0] == a[:, 1], agree, 1 / (1 - rho))
    torch.testing.assert_close(balancing_weights(a, joint_frequencies(a)), expected, atol=1e-4, rtol=1e-4)


def test_weights_of_unequal_shares() -> None:
    frequencies = torch.tensor([0.5, 0.2, 0.2, 0.1])  # p(a) = p(b) = 0.3
    rows = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    expected = torch.tensor([0.49 / 0.5, 0.21 / 0.2, 0.21 / 0.2, 0.09 / 0.1])
    torch.testing.assert_close(balancing_weights(rows, frequencies), expected)


def test_rare_unknown_and_missing_cells() -> None:
    """Agreement alone occurs, but for one in a thousand; what is unknown does not count, a missing cell harms none."""
    frequencies = torch.tensor([0.4995, 0.001, 0.0, 0.4995])
    rows = torch.tensor([[1.0, 0], [0, 1], [0, 0], [1, math.nan]])
    weights = balancing_weights(rows, frequencies, largest=7.0)
    torch.testing.assert_close(weights, torch.tensor([7.0, 7.0, 0.5005, 0.0]), atol=1e-3, rtol=0)
    assert balancing_weights(rows, torch.tensor([0.0, 0, 0, 1])).isfinite().all()


def test_weights_take_the_tie_out_of_the_correlation() -> None:
    """A prototype of the one attribute and one of the other: punished for their tie without weights, free with them."""
    a = tied(0.75)
    weights = balancing_weights(a, joint_frequencies(a))
    pure = a * torch.tensor([3.0, -0.2]) + 1
    assert correlation(pure)[0, 1].item() == pytest.approx(-0.75, abs=1e-5)
    assert correlation(pure, weights)[0, 1].item() == pytest.approx(0, abs=1e-5)
    assert decorrelation_loss(pure).item() == pytest.approx(0.75**2, abs=1e-4)
    assert decorrelation_loss(pure, weights).item() == pytest.approx(0, abs=1e-6)


def test_the_plain_penalty_prefers_mixtures_of_tied_concepts() -> None:
    """Sum and difference are uncorrelated in tied data, but not what either concept is; the weights let pure ones be.

    The plain penalty prefers (a + b, a - b) to (a, b). Under the weights both are free: rotations of independent
    columns are uncorrelated, which is what the kurtosis penalty is for. A lopsided mixture costs.
    """
    a = tied(0.75)
    weights = balancing_weights(a, joint_frequencies(a))
    mixed, lopsided = a @ torch.tensor([[1.0, 1.0], [1.0, -1.0]]), a @ torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert decorrelation_loss(mixed).item() < 1e-6 < decorrelation_loss(a).item()
    assert decorrelation_loss(mixed, weights).item() == pytest.approx(0, abs=1e-6)
    assert decorrelation_loss(lopsided, weights).item() == pytest.approx(0.5, abs=1e-4)  # corr(a + b, b)² = 1/2


def test_weights_of_rows_with_all_attributes() -> None:
    """Cells hold 6, 6, 2 and 2 of 16 rows; independent they would hold 4 each. The first column is not balanced."""
    a = torch.cat([torch.zeros(16, 1), tied(0.5, 16)], 1)
    balance = Balance.of([2, 1], a)
    agree = a[:, 1] == a[:, 2]
    torch.testing.assert_close(balance.weights(a), torch.where(agree, 4 / 6, 4 / 2))
    torch.testing.assert_close(balance.weights(a[[0, 15]]), torch.tensor([4 / 6, 2.0]))


@pytest.mark.parametrize("names", [["Hair"], ["Hair", "Hair"], [str(i) for i in range(9)]])
def test_names_that_cannot_be_balanced(names: list[str]) -> None:
    with pytest.raises(InvalidOptionError, match=r"decorrelation.balance is \[.*\]; name 2 to 8 different attributes"):
        check_names(names)


@pytest.mark.parametrize(("known", "words"), [(["Hat", "Hair"], "Hat, Hair"), ([], r"\(none\)")])
def test_names_that_the_data_lack(known: list[str], words: str) -> None:
    assert columns_of(known[::-1], known) == [*range(len(known))][::-1]
    with pytest.raises(InvalidOptionError, match=f"names 'Beard'; the data have the attributes {words}"):
        columns_of(["Beard"], known)
