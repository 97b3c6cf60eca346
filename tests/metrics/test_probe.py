import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from patronus_pl.metrics import linear_probe, logistic_weights


def planted(n=600, m=7, a=5, seed=0):
    """Latents of uneven scale, attributes that depend on some of them, from rare to common."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, m)) * np.logspace(-2, 2, m) + 5
    logits = (x - 5) / np.logspace(-2, 2, m) @ rng.normal(size=(m, a)) + np.linspace(-3, 1, a)
    return x, (logits + rng.logistic(size=(n, a)) > 0).astype(float)


def sklearn_probe(x, y):
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=10_000))
    folds = KFold(5, shuffle=True, random_state=0)
    return np.array([cross_val_score(pipeline, x, target, cv=folds, scoring="roc_auc") for target in y.T])


def test_linear_probe_equals_scikit_learn():
    x, y = planted()
    expected, probe = sklearn_probe(x, y), linear_probe(x, y)
    np.testing.assert_allclose(probe.per_attribute, expected.mean(axis=1), atol=1e-3)
    assert probe.score == pytest.approx(expected.mean(), abs=1e-3)
    assert probe.std == pytest.approx(expected.mean(axis=0).std(), abs=1e-3)
    same = linear_probe(torch.tensor(x, requires_grad=True), torch.tensor(y, dtype=torch.int64))
    np.testing.assert_array_equal(same.per_attribute, probe.per_attribute)
    turned = y[:, ::-1] > 0
    turned.flags.writeable = False
    np.testing.assert_allclose(linear_probe(x, turned).per_attribute[::-1], probe.per_attribute, atol=1e-6)
    assert linear_probe(torch.tensor(x).bfloat16(), y).score == pytest.approx(probe.score, abs=0.05)


def test_linear_probe_survives_separable_attributes_rare_attributes_and_dead_latents():
    x, y = planted()
    x[:, 3] = 2.5
    y[:, 0] = x[:, 6] > 5
    y[:, 1] = np.arange(len(x)) % 40 == 0
    expected, probe = sklearn_probe(x, y), linear_probe(x, y)
    np.testing.assert_allclose(probe.per_attribute, expected.mean(axis=1), atol=1e-3)


def test_linear_probe_leaves_out_unknown_labels():
    x, y = planted()
    x = StandardScaler().fit_transform(x)
    gaps = y.copy()
    gaps[np.random.default_rng(2).random(y.shape) < 0.3] = np.nan
    scores = []
    for train, test in KFold(5, shuffle=True, random_state=0).split(x):
        scaler = StandardScaler().fit(x[train])
        fit, held_out = train[~np.isnan(gaps[train, 2])], test[~np.isnan(gaps[test, 2])]
        model = LogisticRegression(tol=1e-8, max_iter=10_000).fit(scaler.transform(x[fit]), gaps[fit, 2])
        scores.append(roc_auc_score(gaps[held_out, 2], model.decision_function(scaler.transform(x[held_out]))))
    assert linear_probe(x, gaps).per_attribute[2] == pytest.approx(np.mean(scores), abs=1e-3)


def test_linear_probe_marks_a_constant_attribute_and_averages_the_rest():
    x, y = planted()
    whole = linear_probe(x, y[:, 1:])
    y[:, 0] = 1
    probe = linear_probe(x, y)
    assert np.isnan(probe.per_attribute[0])
    assert probe.score == pytest.approx(whole.score)
    assert np.isfinite(probe.std)


def test_linear_probe_of_classes_is_held_out_accuracy():
    x, y = planted()
    labels = (y[:, 2] + 2 * y[:, 3]).astype(np.int64)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    expected = cross_val_score(pipeline, x, labels, cv=KFold(5, shuffle=True, random_state=0))
    probe = linear_probe(x, torch.tensor(labels))
    assert (probe.score, probe.std) == pytest.approx((expected.mean(), expected.std()), abs=1e-9)
    assert probe.per_attribute.shape == (4,)
    assert np.average(probe.per_attribute, weights=np.bincount(labels)) == pytest.approx(probe.score)


def test_probe_of_noise_is_chance():
    rng = np.random.default_rng(3)
    probe = linear_probe(rng.normal(size=(2000, 5)), rng.integers(0, 2, (2000, 8)))
    assert probe.score == pytest.approx(0.5, abs=0.02)


# ---- the regressions -------------------------------------------------------------------------------------------------


def standardised(n=300, m=6, a=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, m)) @ (np.eye(m) + 0.5 * rng.normal(size=(m, m)))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return x, (x @ rng.normal(size=(m, a)) + np.linspace(-3, 1, a) + rng.logistic(size=(n, a)) > 0).astype(float)


def with_gaps(y):
    return np.where(np.random.default_rng(1).random(y.shape) < 0.3, np.nan, y)


@pytest.mark.parametrize("gaps", [False, True])
def test_logistic_weights_equal_scikit_learn(gaps):
    x, y = standardised()
    y = with_gaps(y) if gaps else y
    weights = logistic_weights(x, y)
    for k in range(y.shape[1]):
        known = ~np.isnan(y[:, k])
        model = LogisticRegression(tol=1e-8, max_iter=10_000).fit(x[known], y[known, k])
        np.testing.assert_allclose(weights[:, k], [*model.coef_[0], *model.intercept_], atol=2e-3)


def test_logistic_weights_converge_on_separable_and_on_one_sided_labels():
    x, _ = standardised()
    y = np.stack([x[:, 0] > 0, np.arange(len(x)) == 7, np.ones(len(x))], axis=1).astype(float)
    weights = logistic_weights(x, y)
    for k in range(2):
        model = LogisticRegression(tol=1e-8, max_iter=10_000).fit(x, y[:, k])
        np.testing.assert_allclose(weights[:-1, k], model.coef_[0], atol=2e-2)
    assert np.isfinite(weights).all()
    assert np.abs(weights[:-1, 2]).max() < 1e-3


def lasso_by_bounds(x, y, penalty):
    """The same minimum from SciPy: w = u − v with u, v ≥ 0 makes the L1 norm smooth."""
    m = x.shape[1]

    def loss(parameters):
        u, v, bias = parameters[:m], parameters[m:-1], parameters[-1]
        z = x @ (u - v) + bias
        residual = (1 / (1 + np.exp(-z)) - y) / len(y)
        gradient = x.T @ residual
        value = np.mean(np.logaddexp(0, z) - y * z) + penalty * (u.sum() + v.sum())
        return value, np.concatenate([gradient + penalty, -gradient + penalty, [residual.sum()]])

    bounds = [(0, None)] * (2 * m) + [(None, None)]
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 5000}
    best = minimize(loss, np.zeros(2 * m + 1), jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    return best[:m] - best[m:-1]


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("penalty", [0.01, 0.1])
def test_sparse_weights_equal_bounded_minimisation(penalty, gaps):
    x, y = standardised()
    y = with_gaps(y) if gaps else y
    weights = logistic_weights(x, y, l1=penalty, tolerance=1e-6)[:-1]
    for k in range(y.shape[1]):
        known = ~np.isnan(y[:, k])
        np.testing.assert_allclose(weights[:, k], lasso_by_bounds(x[known], y[known, k], penalty), atol=1e-4)
    zeros = (weights == 0).mean()
    assert zeros < 0.2 if penalty == 0.01 else zeros > 0.2


def test_weights_do_not_depend_on_the_number_of_workers(monkeypatch):
    x, y = standardised(a=5)
    found = []
    for workers in ("1", "3"):
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", workers)
        found.append(np.concatenate([logistic_weights(x, y), logistic_weights(x, y, l1=0.01)]))
    np.testing.assert_array_equal(*found)


def test_an_attribute_with_one_value_gets_its_bias_and_an_unknown_one_gets_nothing():
    x, _ = standardised()
    weights = logistic_weights(x, np.outer(np.ones(len(x)), [1, 0, np.nan]))
    assert not weights[:-1].any()
    np.testing.assert_array_equal(np.sign(weights[-1]), [1, -1, 0])
