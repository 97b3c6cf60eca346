import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.model_selection import KFold

from patronus_pl.metrics import explained_entropy, total_auroc_difference


def tad_by_loops(x, y):
    """The definition, attribute by attribute, with scikit-learn's AUROC and mutual information."""
    tad, captured = 0.0, []
    for k in range(y.shape[1]):
        best, second = sorted((max(a, 1 - a) for a in (roc_auc_score(y[:, k], s) for s in x.T)), reverse=True)[:2]
        others = [mutual_info_score(y[:, k], y[:, j]) for j in range(y.shape[1]) if j != k]
        if best >= 0.75 and max(others) / entropy(np.bincount(y[:, k].astype(int)) / len(y)) <= 0.2:
            tad, captured = tad + best - second, [*captured, k]
    return tad, captured


def attributes_of_every_kind():
    """Captured by latent 0 (inverted sign), read by two latents, a near copy of another attribute, and noise."""
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, (1000, 5)).astype(float)
    y[:, 3] = np.where(rng.random(1000) < 0.05, 1 - y[:, 2], y[:, 2])
    x = rng.normal(size=(1000, 6))
    x[:, 0] -= 3 * y[:, 0]
    x[:, 1:3] += 2 * y[:, [1]]
    x[:, 3] += 3 * y[:, 2]
    return x, y


def test_tad_follows_the_definition():
    x, y = attributes_of_every_kind()
    result = total_auroc_difference(x, y)
    tad, captured = tad_by_loops(x, y)
    assert captured == [0, 1]
    assert result.captured.tolist() == captured
    assert result.tad == pytest.approx(tad)
    assert result.per_captured == pytest.approx(tad / 2)
    assert result.latent[[0, 2]].tolist() == [0, 3]
    np.testing.assert_array_equal(result.best, result.auroc.max(axis=1))
    assert result.std == 0


def test_tad_over_folds_is_the_mean_over_training_parts():
    x, y = attributes_of_every_kind()
    tads = [tad_by_loops(x[rows], y[rows])[0] for rows, _ in KFold(5, shuffle=True, random_state=0).split(x)]
    result = total_auroc_difference(torch.tensor(x), torch.tensor(y), folds=5)
    assert (result.tad, result.std) == pytest.approx((np.mean(tads), np.std(tads)))


def test_tad_of_a_single_latent_is_measured_from_chance():
    y = np.arange(100)[:, None] % 2
    result = total_auroc_difference(y.astype(float), y)
    assert (result.tad, result.best[0], result.second[0]) == (0.5, 1.0, 0.5)


def test_tad_skips_a_constant_attribute():
    x, y = attributes_of_every_kind()
    y[:, 0] = 0
    result = total_auroc_difference(x, y)
    assert result.captured.tolist() == [1]
    assert np.isnan(result.best[0])
    assert result.latent[0] == -1


def test_explained_entropy_of_known_tables():
    copy = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1.0]])
    np.testing.assert_allclose(explained_entropy(copy), [1, 1, 0], atol=1e-12)
    # Three exclusive classes of one third each: I = H(1/3) − 2/3 · H(1/2).
    h = entropy([1 / 3, 2 / 3])
    np.testing.assert_allclose(explained_entropy(np.eye(3)), (h - 2 / 3 * np.log(2)) / h)
    gap = np.vstack([copy, [[1, np.nan, 0], [0, np.nan, 1]]])
    np.testing.assert_allclose(explained_entropy(gap)[1], 1)
