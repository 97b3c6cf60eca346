import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from patronus_pl.metrics.logistic import logistic_weights, sparse_logistic_weights


def planted(n=300, m=6, a=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, m)) @ (np.eye(m) + 0.5 * rng.normal(size=(m, m)))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return x, (x @ rng.normal(size=(m, a)) + np.linspace(-3, 1, a) + rng.logistic(size=(n, a)) > 0).astype(float)


def with_gaps(y):
    return np.where(np.random.default_rng(1).random(y.shape) < 0.3, np.nan, y)


@pytest.mark.parametrize("gaps", [False, True])
def test_logistic_weights_equal_scikit_learn(gaps):
    x, y = planted()
    y = with_gaps(y) if gaps else y
    weights = logistic_weights(x, y)
    for k in range(y.shape[1]):
        known = ~np.isnan(y[:, k])
        model = LogisticRegression(tol=1e-8, max_iter=10_000).fit(x[known], y[known, k])
        np.testing.assert_allclose(weights[:, k], [*model.coef_[0], *model.intercept_], atol=2e-3)


def test_logistic_weights_converge_on_separable_and_on_one_sided_labels():
    x, _ = planted()
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
    x, y = planted()
    y = with_gaps(y) if gaps else y
    weights = sparse_logistic_weights(x, y, penalty, tolerance=1e-8)
    for k in range(y.shape[1]):
        known = ~np.isnan(y[:, k])
        np.testing.assert_allclose(weights[:, k], lasso_by_bounds(x[known], y[known, k], penalty), atol=1e-4)
    zeros = (weights == 0).mean()
    assert zeros < 0.2 if penalty == 0.01 else zeros > 0.2
