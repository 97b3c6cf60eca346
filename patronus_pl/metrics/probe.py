"""Linear probes: how much a logistic regression on the activations knows of each attribute."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_limits

from patronus_pl.errors import AttributeTableError, InvalidOptionError
from patronus_pl.metrics.ranking import auroc
from patronus_pl.metrics.tables import (
    Array,
    Labels,
    Table,
    as_array,
    as_float64,
    check_activations,
    check_attributes,
    check_rows,
    nanmean,
    varying,
)

ONLY_L1 = {"l1_ratio": 1.0} if LogisticRegression().penalty != "l2" else {"penalty": "l1"}
"""The L1 penalty, as releases of scikit-learn from 1.8 on and those before it spell it."""


@dataclass(frozen=True)
class LinearProbe:
    """What `linear_probe` found.

    Attributes:
        score: mean over attributes and folds; AUROC, or accuracy for class labels.
        std: standard deviation of the score over folds.
        per_attribute: (a,) mean AUROC over folds, NaN where an attribute has one value only; for class labels the share
            of each class that is recognised.
    """

    score: float
    std: float
    per_attribute: Array


def linear_probe(activations: Table, labels: Labels, folds: int = 5, seed: int = 0) -> LinearProbe:
    """Measure the held-out AUROC of one logistic regression an attribute on standardised activations.

    Each fold's regressions, see `logistic_weights`, and its standardisation are fitted on the other folds. Class labels
    (1-D) get one multinomial regression and held-out accuracy instead.

    Args:
        activations: shape (n, m), finite.
        labels: shape (n, a), values 0, 1 and NaN (unknown: left out for that attribute), or (n,) integer classes.
        folds: number of parts of a shuffled K-fold.
        seed: seed of the shuffle.

    Raises:
        InvalidOptionError: shapes that do not match, too few images, activations that are not finite.
        AttributeTableError: values other than 0, 1, NaN; no attribute with both values.

    Example:
        >>> import numpy as np
        >>> s = np.random.default_rng(0).normal(size=(100, 3))
        >>> linear_probe(s, s[:, :1] > 0).score > 0.95
        True
    """
    x = check_activations(activations)
    check_rows(len(x), len(labels), folds, at_least=2)
    splits = list(KFold(folds, shuffle=True, random_state=seed).split(x))
    if labels.ndim == 1:
        return _class_probe(x, as_array(labels), splits)
    y = check_attributes(labels)
    held_out = np.stack([_held_out_auroc(x, y, train, test) for train, test in splits])
    scores = nanmean(held_out, axis=1)
    return LinearProbe(float(nanmean(scores, axis=0)), float(np.nanstd(scores)), nanmean(held_out, axis=0))


def logistic_weights(x: Table, y: Table, l1: float | None = None, tolerance: float = 1e-4) -> Array:
    """Fit one logistic regression an attribute with scikit-learn; the bias is never penalised.

        L2: min_{w,b} ½ ‖w‖² + Σ_i [log(1 + exp(z_i)) − y_i z_i],       z = w·x + b
        L1: min_{w,b} l1 · ‖w‖₁ + mean_i [log(1 + exp(z_i)) − y_i z_i]

    Newton's method solves the first: with many more images than activations its few steps are the fastest that
    scikit-learn has. SAGA solves the second, and is the only solver that leaves the bias out of the L1 norm.

    Args:
        x: standardised activations, shape (n, m).
        y: attributes, shape (n, a), values 0, 1, NaN (left out).
        l1: weight of the L1 norm; None: the L2 norm, at scikit-learn's default C = 1.
        tolerance: at which the solver stops, see scikit-learn's `tol`.

    Returns:
        Shape (m + 1, a): the weights, then the bias. An attribute with one value only gets no weights, and a bias that
        names this value.

    Example:
        >>> import numpy as np
        >>> x = np.array([[-1.0], [-1.0], [1.0], [1.0]])
        >>> print(logistic_weights(x, x > 0).round(2) + 0.0)
        [[1.04]
         [0.  ]]
    """
    x = as_float64(x)
    # One thread each: several would wait for each other at every small product, for minutes on a busy machine.
    with threadpool_limits(1):
        fits = Parallel(-1, prefer="threads")(delayed(_regression)(x, k, l1, tolerance) for k in as_float64(y).T)
    return np.stack(fits, axis=1)


def _regression(x: Array, y: Array, l1: float | None, tolerance: float) -> Array:
    known = ~np.isnan(y)
    target = y[known]
    if not 0 < target.sum() < len(target):  # scikit-learn refuses a single class
        return np.append(np.zeros(x.shape[1]), np.log((target.sum() + 0.5) / (len(target) - target.sum() + 0.5)))
    if l1 is None:
        model = LogisticRegression(solver="newton-cholesky", tol=tolerance)
    else:
        # scikit-learn weighs the sum of the losses by C, we the mean by 1.
        c = 1 / (l1 * len(target))
        model = LogisticRegression(C=c, solver="saga", tol=tolerance, max_iter=5000, random_state=0, **ONLY_L1)
    model.fit(x[known], target)
    return np.append(model.coef_[0], model.intercept_)


def _held_out_auroc(x: Array, y: Array, train: NDArray[np.int64], test: NDArray[np.int64]) -> Array:
    """Return the AUROC, shape (a,), on the test rows, of regressions fitted on the train rows."""
    scaler = StandardScaler().fit(x[train])
    weights = logistic_weights(scaler.transform(x[train]), y[train])[:-1]  # the bias does not change the order
    return np.where(varying(y[train]), np.diagonal(auroc(scaler.transform(x[test]) @ weights, y[test])), np.nan)


def _class_probe(
    x: Array, labels: NDArray[Any], splits: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> LinearProbe:
    if labels.dtype.kind == "f":
        raise InvalidOptionError("1-D labels are classes and must be integers; give one attribute as a column (n, 1)")
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise AttributeTableError(f"all {len(y)} labels are {classes[0]}; a probe needs two classes or more")
    right = np.zeros(len(y))
    for train, test in splits:
        scaler = StandardScaler().fit(x[train])
        model = LogisticRegression(max_iter=1000).fit(scaler.transform(x[train]), y[train])
        right[test] = model.predict(scaler.transform(x[test])) == y[test]
    scores = [right[test].mean() for _, test in splits]
    recall = np.bincount(y, right) / np.bincount(y)
    return LinearProbe(float(np.mean(scores)), float(np.std(scores)), recall)
