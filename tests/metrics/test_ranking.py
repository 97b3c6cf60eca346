import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from patronus_pl.metrics import auroc


def test_auroc_equals_scikit_learn_with_ties_and_gaps():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 6, (200, 4)).astype(float), rng.integers(0, 2, (200, 3)).astype(float)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    expected = [[roc_auc_score(y[~np.isnan(y)], s[~np.isnan(y)]) for s in scores.T] for y in labels.T]
    np.testing.assert_allclose(auroc(scores, labels), expected, atol=1e-12)
    np.testing.assert_allclose(auroc(torch.tensor(scores), torch.tensor(labels)), expected, atol=1e-12)


def test_auroc_is_undefined_for_an_attribute_with_one_value_and_for_no_other():
    labels = np.array([[0.0, 1], [0, 0], [0, 1], [np.nan, 0]])
    result = auroc(np.arange(4.0)[:, None], labels)
    assert np.isnan(result[0, 0])
    assert result[1, 0] == roc_auc_score([1, 0, 1, 0], [0, 1, 2, 3])
