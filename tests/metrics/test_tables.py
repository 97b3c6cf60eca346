"""What every metric of activations and attributes refuses, and the standardisation that they share."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from patronus_pl.errors import AttributeTableError, InvalidOptionError
from patronus_pl.metrics import linear_probe, mean_and_std, total_auroc_difference


def test_wrong_input_is_named():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 7)), rng.integers(0, 2, (20, 5)).astype(float)
    with pytest.raises(AttributeTableError, match=r"attributes hold 2; use 0, 1 or NaN"):
        linear_probe(x, y + 1)
    with pytest.raises(AttributeTableError, match="none of 5 attributes has both a 0 and a 1"):
        total_auroc_difference(x, y * 0)
    with pytest.raises(InvalidOptionError, match="row 3 is not finite"):
        linear_probe(np.where(np.arange(20)[:, None] == 3, np.inf, x), y)
    with pytest.raises(InvalidOptionError, match="20 rows of activations but 19 of labels"):
        linear_probe(x, y[1:])
    with pytest.raises(InvalidOptionError, match=r"folds is 21; .* choose 1\.\.20"):
        total_auroc_difference(x, y, folds=21)
    with pytest.raises(InvalidOptionError, match=r"folds is 1; .* choose 2\.\.20"):
        linear_probe(x, y, folds=1)
    with pytest.raises(InvalidOptionError, match="1-D labels are classes and must be integers"):
        linear_probe(x, y[:, 0])
    with pytest.raises(AttributeTableError, match="all 20 labels are 7"):
        linear_probe(x, np.full(20, 7))


def test_mean_and_std_standardise_as_scikit_learn_does():
    s = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 10, 0]) + 5
    mean, std = mean_and_std(s)
    np.testing.assert_allclose((s - mean) / std, StandardScaler().fit_transform(s.double()), atol=1e-3)
