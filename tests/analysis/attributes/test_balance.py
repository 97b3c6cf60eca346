"""Balanced sampling, where the tie is planted in activations of known meaning."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from patronus_pl.analysis.attributes.balance import balance, balanced_rows, read_attributes
from patronus_pl.errors import InvalidOptionError

NAMES = ("Hair", "Smile")


def tied(count: int, rho: float, seed: int = 0) -> torch.Tensor:
    """Hair in 60 % of the rows, smiles in 30 %, of correlation about ρ."""
    rng = np.random.default_rng(seed)
    hair = rng.random(count) < 0.6
    slope = rho * math.sqrt(0.3 * 0.7 / (0.6 * 0.4))
    smile = rng.random(count) < 0.3 + slope * (hair - 0.6)
    return torch.from_numpy(np.stack([hair, smile], axis=1)).float()


def activations(attributes: torch.Tensor, noise: float = 0.2, seed: int = 1) -> torch.Tensor:
    """Mixtures of the attributes, another scale each, and one prototype that means nothing."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.tensor([[1.0, 0.3, 20.0], [0.2, 1.0, -30.0]])
    mixed = attributes @ mixing
    rest = torch.randn(len(mixed), 1, generator=generator)
    return torch.cat([mixed, rest], 1) + noise * torch.randn(len(mixed), 4, generator=generator)


def phi(attributes: torch.Tensor) -> float:
    return float(np.corrcoef(attributes.numpy().T)[0, 1])


def test_rows_are_independent_and_keep_how_common_each_is() -> None:
    attributes = tied(4000, 0.4)
    assert phi(attributes) > 0.35
    rows = balanced_rows(attributes, NAMES, 400)
    kept = attributes[rows]
    assert abs(phi(kept)) < 0.01
    np.testing.assert_allclose(kept.mean(0), attributes.mean(0), atol=1 / 400)
    assert len(set(rows.tolist())) == 400  # there are enough of each


def test_counts_are_the_product_of_the_marginals() -> None:
    """90 rows: hair in 60, smiles in 30; of 9 images 9 · ⅔ · ⅓ = 2 have both, 4 hair alone, 1 a smile alone, 2 none."""
    rows = [[1.0, 1.0]] * 25 + [[1.0, 0.0]] * 35 + [[0.0, 1.0]] * 5 + [[0.0, 0.0]] * 25
    attributes = torch.tensor(rows)
    kept = attributes[balanced_rows(attributes, NAMES, 9)].tolist()
    assert [kept.count(cell) for cell in ([1, 1], [1, 0], [0, 1], [0, 0])] == [2, 4, 1, 2]


def test_too_few_are_repeated_evenly() -> None:
    rows = [[1.0, 1.0]] * 19 + [[0.0, 0.0]] * 19 + [[1.0, 0.0], [0.0, 1.0]]
    found = balanced_rows(torch.tensor(rows), NAMES, 40)
    counts = np.bincount(found.numpy(), minlength=40)
    assert counts[38:].tolist() == [10, 10]
    assert counts[:38].max() <= 1


def test_the_unknown_is_not_taken_and_another_seed_takes_others() -> None:
    attributes = tied(500, 0.3)
    attributes[:250, 1] = math.nan
    first, again, other = (balanced_rows(attributes, NAMES, 50, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert min(first) >= 250


def test_reading_agrees_with_scikit_learn() -> None:
    attributes = tied(400, 0.0)
    known = activations(attributes, noise=0.5)
    s = activations(tied(300, 0.0, seed=5), noise=0.5, seed=6)
    found = read_attributes(s, known, attributes)
    mean, std = known.numpy().mean(0), known.numpy().std(0)
    for k in range(2):
        probe = LogisticRegression(max_iter=1000).fit((known.numpy() - mean) / std, attributes[:, k])
        assert (probe.predict((s.numpy() - mean) / std) == found[:, k].numpy()).mean() > 0.99


def test_what_is_kept_is_balanced_in_truth() -> None:
    """The truth behind the candidates is known: tied as in the data before, independent after."""
    attributes, truth = tied(2000, 0.4), tied(3000, 0.4, seed=3)
    found = balance(activations(truth, seed=4), activations(attributes), attributes, NAMES, 300)
    assert found.auroc.min().item() > 0.99
    assert abs(phi(found.read[found.rows])) < 0.01
    assert phi(truth) > 0.35
    assert abs(phi(truth[found.rows])) < 0.05
    np.testing.assert_allclose(truth[found.rows].mean(0), truth.mean(0), atol=0.02)


def test_misread_common_combinations_do_not_pass_for_rare_ones() -> None:
    """S says much of smiles and less of hair: a probe that ignored the tie would find far too many rare pairs."""
    attributes, truth = tied(6000, 0.4), tied(6000, 0.4, seed=3)
    generator = torch.Generator().manual_seed(0)
    known, s = (y + torch.tensor([0.4, 0.05]) * torch.randn(6000, 2, generator=generator) for y in (attributes, truth))
    found = balance(s, known, attributes, NAMES, 500)
    assert phi(found.read) == pytest.approx(phi(truth), abs=0.08)
    untied = tied(6000, 0.0, seed=4)
    other = untied + torch.tensor([0.4, 0.05]) * torch.randn(6000, 2, generator=generator)
    naive = balanced_rows(read_attributes(s, other, untied), NAMES, 500)
    assert abs(phi(truth[found.rows])) < 0.6 * phi(truth[naive])


def test_a_combination_that_never_occurs() -> None:
    attributes = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]] * 5)
    words = "of 15 candidates none shows Hair and no Smile, so that Hair, Smile cannot be balanced; draw more"
    with pytest.raises(InvalidOptionError, match=words):
        balanced_rows(attributes, NAMES, 8)


def test_an_attribute_that_is_never_read_cannot_be_balanced() -> None:
    with pytest.raises(InvalidOptionError, match="of 10 candidates none shows no Hair and no Smile, so that"):
        balanced_rows(torch.tensor([[1.0, 0.0], [1.0, 1.0]] * 5), NAMES, 4)
