import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from patronus_pl.errors import AttributeTableError, InvalidOptionError
from patronus_pl.metrics import dci


def planted(mixing, n=2000, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (n, mixing.shape[0])).astype(float)
    return (y - 0.5) @ mixing + noise * rng.normal(size=(n, mixing.shape[1])), y


def entropy_score(p):
    p = np.asarray(p) / sum(p)
    return 1 + sum(q * np.log(q) for q in p if q > 0) / np.log(len(p))


def test_dci_equals_its_definition_on_scikit_learns_weights():
    x, y = planted(np.array([[2, 0, 0.6, 0], [0, 1.5, 0, 0.8], [0.5, 0, 1.5, 0]]))
    train, test = next(KFold(5, shuffle=True, random_state=0).split(x))
    scaler = StandardScaler().fit(x[train])
    # C = 1 / (penalty · n) is the same objective; liblinear would penalise the bias, saga does not.
    models = [
        LogisticRegression(C=1 / (0.01 * len(train)), l1_ratio=1.0, solver="saga", tol=1e-7, max_iter=10_000).fit(
            scaler.transform(x[train]), target
        )
        for target in y[train].T
    ]
    importance = np.abs([model.coef_[0] for model in models]).T
    d = [entropy_score(row) if row.any() else 0 for row in importance]
    c = [entropy_score(column) for column in importance.T]
    areas = [
        roc_auc_score(y[test, k], model.decision_function(scaler.transform(x[test]))) for k, model in enumerate(models)
    ]
    result = dci(torch.tensor(x), torch.tensor(y))
    np.testing.assert_allclose(result.importance, importance, atol=2e-3)
    np.testing.assert_allclose(result.per_latent, d, atol=5e-3)
    np.testing.assert_allclose(result.per_attribute, c, atol=5e-3)
    np.testing.assert_allclose(result.auroc, areas, atol=1e-3)
    weights = importance.sum(axis=1) / importance.sum()
    assert result.disentanglement == pytest.approx(np.dot(weights, d), abs=5e-3)
    assert result.completeness == pytest.approx(np.mean(c), abs=5e-3)
    assert result.informativeness == pytest.approx(np.mean(areas), abs=1e-3)


def test_one_latent_an_attribute_is_perfect_and_a_rotation_is_not():
    clean = dci(*planted(3 * np.eye(4), noise=0.3), penalty=0.05)
    assert clean.disentanglement == pytest.approx(1, abs=1e-6)
    assert clean.completeness == pytest.approx(1, abs=1e-6)
    assert clean.informativeness > 0.99
    rotation = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    turned = dci(*planted(3 * rotation, noise=0.3), penalty=0.05)
    assert turned.informativeness > 0.99
    assert turned.disentanglement < 0.1
    assert turned.completeness < 0.1


def test_split_latents_are_disentangled_but_not_complete_and_shared_ones_the_reverse():
    split = dci(*planted(np.array([[2, 2, 0, 0], [0, 0, 2, 2.0]])))
    assert split.disentanglement > 0.95
    assert split.completeness == pytest.approx(0.5, abs=0.05)
    x, y = planted(np.array([[2, 0, 0], [2, 0, 0.0]]))
    shared = dci(x, y)
    assert shared.per_latent[0] < 0.1
    assert shared.completeness > 0.9


def test_unpredictable_attributes_and_dead_latents_count_as_nothing():
    x, y = planted(3 * np.eye(4)[:3])
    x[:, 3] = 1.0
    y[:, 2] = np.random.default_rng(5).integers(0, 2, len(y))
    result = dci(x, y, penalty=0.1)
    assert result.importance[:, 2].tolist() == [0, 0, 0, 0]
    assert result.per_attribute[2] == 0
    assert result.per_latent[3] == pytest.approx(0)
    nothing = dci(x, y, penalty=10.0)
    scores = nothing.disentanglement, nothing.completeness, nothing.informativeness
    assert scores == pytest.approx((0, 0, 0.5))


def test_constant_attributes_are_left_out():
    x, y = planted(3 * np.eye(4))
    y[:, 3] = np.where(y[:, 3] == 1, np.nan, 0)
    whole, part = dci(x, y), dci(x, y[:, :3])
    assert np.isnan(whole.per_attribute[3])
    assert whole.disentanglement == pytest.approx(part.disentanglement)
    assert whole.completeness == pytest.approx(part.completeness)


def test_wrong_input_is_named():
    x, y = planted(np.eye(3), n=50)
    with pytest.raises(InvalidOptionError, match="DCI needs 2 latents and 2 varying attributes, not 1 and 3"):
        dci(x[:, :1], y)
    with pytest.raises(InvalidOptionError, match="not 3 and 1"):
        dci(x, y[:, :1])
    with pytest.raises(InvalidOptionError, match="50 rows of activations but 49"):
        dci(x, y[1:])
    with pytest.raises(AttributeTableError, match="attributes hold -1"):
        dci(x, y - 1)
