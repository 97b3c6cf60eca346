import numpy as np
import pytest
import torch
from scipy.stats import norm

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import two_sample_auc


def gaussians(n: int, correlation: float = 0.0, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.multivariate_normal([shift, 0.0], [[1.0, correlation], [correlation, 1.0]], n)


def test_samples_of_one_density_cannot_be_told_apart() -> None:
    assert two_sample_auc(gaussians(800), gaussians(800, seed=1), folds=3) == pytest.approx(0.5, abs=0.05)


def test_a_shift_is_found_as_well_as_the_best_classifier_can() -> None:
    """The likelihood ratio of N(0, 1) and N(δ, 1) is monotone in x, so that the best AUROC is Φ(δ / √2)."""
    auc = two_sample_auc(gaussians(2000), gaussians(2000, shift=1.0, seed=1), folds=2)
    assert norm.cdf(1 / np.sqrt(2)) - 0.04 < auc < norm.cdf(1 / np.sqrt(2)) + 0.01


def test_a_difference_of_correlation_alone_is_found() -> None:
    assert two_sample_auc(gaussians(500, 0.9), gaussians(500, -0.9, seed=1), folds=2) > 0.9


def test_the_larger_sample_is_thinned_and_tensors_do() -> None:
    few, many = gaussians(300), gaussians(3000, shift=1.0, seed=1)
    auc = two_sample_auc(few, many, folds=2)
    assert 0.6 < auc < norm.cdf(1 / np.sqrt(2)) + 0.05
    assert two_sample_auc(torch.from_numpy(few), torch.from_numpy(many), folds=2) == auc
    assert two_sample_auc(few, many, folds=2, seed=1) != auc


def test_wrong_input() -> None:
    x = gaussians(20)
    with pytest.raises(InvalidOptionError, match="two samples of 2 and 1 columns"):
        two_sample_auc(x, x[:, :1])
    with pytest.raises(InvalidOptionError, match=r"folds is 5; with 3 rows of each sample choose 2..3"):
        two_sample_auc(x, x[:3])
    x[7] = np.nan
    with pytest.raises(InvalidOptionError, match="row 7 is not finite"):
        two_sample_auc(gaussians(20), x)
