"""How much the activations know, and whether single prototypes know it: AUROC, linear probe, TAD.

Every function takes NumPy arrays or tensors: activations (n, m), attributes (n, a) with values 0, 1 or NaN (unknown).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from torch import Tensor

from patronus_pl.errors import AttributeTableError, InvalidOptionError
from patronus_pl.metrics.logistic import logistic_weights

Table = Shaped[np.ndarray, "_ _"] | Shaped[Tensor, "_ _"]
"""One row an image, NumPy or torch, any numeric type."""
Labels = Table | Shaped[np.ndarray, " _"] | Shaped[Tensor, " _"]
"""Attributes (n, a), or one class number an image (n,)."""
Array = NDArray[np.float64]

CAPTURED = 0.75
"""An attribute is captured when its best latent's AUROC is at least this (NashAE)."""
EXPLAINED = 0.2
"""... and no other attribute explains more than this share of its entropy."""


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


@dataclass(frozen=True)
class TotalAurocDifference:
    """What `total_auroc_difference` found.

    Attributes:
        tad: Σ over captured attributes of best − second best AUROC (mean over folds).
        std: its standard deviation over folds; 0 with one fold.
        captured: indices of the captured attributes.
        best: (a,) AUROC of the best latent, in [0.5, 1]; NaN where an attribute has one value only.
        second: (a,) AUROC of the next best latent; 0.5 when there is only one.
        latent: (a,) index of the best latent; -1 where `best` is NaN.
        explained: (a,) largest share of the attribute's entropy that one other attribute explains.
        auroc: (a, m) of either sign, max(AUROC, 1 − AUROC).
    """

    tad: float
    std: float
    captured: NDArray[np.int64]
    best: Array
    second: Array
    latent: NDArray[np.int64]
    explained: Array
    auroc: Array

    @property
    def per_captured(self) -> float:
        """TAD divided by the number of captured attributes; 0 when none is."""
        return self.tad / max(len(self.captured), 1)


def as_array(values: Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]) -> NDArray[Any]:
    """NumPy or torch (any device) → NumPy of the same type."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def as_float64(values: Labels) -> Array:
    """NumPy or torch (any device, any type, bfloat16 too) → float64 NumPy."""
    return as_array(values.double() if isinstance(values, Tensor) else values).astype(np.float64)


def check_activations(activations: Table) -> Array:
    """Activations as float64, or one error naming the first row that is not finite."""
    x = as_float64(activations)
    broken = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(broken):
        raise InvalidOptionError(f"activations: row {broken[0]} is not finite ({len(broken)} such rows); drop them")
    return x


def check_attributes(attributes: Table) -> Array:
    """Attributes as float64, or one error naming a value that is none of 0, 1 and NaN, or a table that never varies."""
    y = as_float64(attributes)
    strange = y[~((y == 0) | (y == 1) | np.isnan(y))]
    if len(strange):
        raise AttributeTableError(f"attributes hold {strange[0]:g}; use 0, 1 or NaN (unknown); classes as a 1-D vector")
    if not varying(y).any():
        raise AttributeTableError(f"none of {y.shape[1]} attributes has both a 0 and a 1 in {len(y)} images; give more")
    return y


def check_rows(activations: int, labels: int, folds: int = 1, at_least: int = 1) -> None:
    """One error where the numbers of rows differ or cannot be split into that many folds."""
    if activations != labels:
        raise InvalidOptionError(f"{activations} rows of activations but {labels} of labels; give one each an image")
    if not at_least <= folds <= activations:
        raise InvalidOptionError(f"folds is {folds}; with {activations} images choose {at_least}..{activations}")


def varying(attributes: Array) -> NDArray[np.bool_]:
    """(a,) whether an attribute has both values; where it has not, AUROC is undefined (NaN)."""
    both: NDArray[np.bool_] = (attributes == 0).any(axis=0) & (attributes == 1).any(axis=0)
    return both


def auroc(scores: Table, labels: Table) -> Array:
    """AUROC of every score for every attribute, by midranks (Mann–Whitney).

    AUROC = (Σ_{i: y=1} rank_i − n₁(n₁+1)/2) / (n₁ n₀)

    Args:
        scores: (n, k), any range; ties count one half.
        labels: (n, a) of 0 and 1; NaN leaves the image out for that attribute.

    Returns:
        (a, k) in [0, 1]; NaN in the row of an attribute with one value only.
    """
    x, y = as_float64(scores), as_float64(labels)
    check_rows(len(x), len(y))
    result = np.full((y.shape[1], x.shape[1]), np.nan)
    # Ranks depend only on which images are known: one ranking serves all attributes that share the same gaps.
    gaps = np.array([column.tobytes() for column in np.isnan(y).T])
    for pattern in set(gaps):
        members = np.flatnonzero((gaps == pattern) & varying(y))
        if len(members):
            known = ~np.isnan(y[:, members[0]])
            positive = y[np.ix_(known, members)]
            n1 = positive.sum(axis=0)[:, None]
            rank_sum = positive.T @ rankdata(x[known], axis=0)
            result[members] = (rank_sum - n1 * (n1 + 1) / 2) / (n1 * (len(positive) - n1))
    return result


def linear_probe(activations: Table, labels: Labels, folds: int = 5, seed: int = 0) -> LinearProbe:
    """Held-out AUROC of one logistic regression an attribute on the activations, standardised on the training fold.

    min_{w,b} ½‖w‖² + Σ_i log(1 + exp(z_i)) − y_i z_i,  z = w·x + b  (scikit-learn's C = 1, all attributes at once).
    Class labels (1-D) get one multinomial regression and held-out accuracy instead.

    Args:
        activations: (n, m), finite.
        labels: (n, a) of 0, 1 and NaN (unknown: left out for that attribute), or (n,) integer classes.
        folds: of a shuffled K-fold.
        seed: of the shuffle.

    Raises:
        InvalidOptionError: shapes that do not match, too few images, activations that are not finite.
        AttributeTableError: values other than 0, 1, NaN; no attribute with both values.
    """
    x = check_activations(activations)
    check_rows(len(x), len(labels), folds, at_least=2)
    splits = list(KFold(folds, shuffle=True, random_state=seed).split(x))
    if labels.ndim == 1:
        return _class_probe(x, as_array(labels), splits)
    y = check_attributes(labels)
    held_out = np.stack([_held_out_auroc(x, y, train, test) for train, test in splits])
    scores = _nanmean(held_out, axis=1)
    return LinearProbe(float(_nanmean(scores, axis=0)), float(np.nanstd(scores)), _nanmean(held_out, axis=0))


def total_auroc_difference(
    activations: Table, attributes: Table, folds: int = 1, seed: int = 0
) -> TotalAurocDifference:
    """TAD: how far the best latent of each captured attribute is ahead of the next best (NashAE, Yeats et al. 2022).

    TAD = Σ_{k captured} (A_k(1) − A_k(2)),  A_kj = max(AUROC, 1 − AUROC) of latent j for attribute k, sorted.
    Captured: A_k(1) ≥ 0.75 and max_{l≠k} I(y_k; y_l) / H(y_k) ≤ 0.2 (near copies are left out).

    Args:
        activations: (n, m), finite.
        attributes: (n, a) of 0, 1 and NaN (unknown).
        folds: 1 uses all images; the published numbers are the mean over the training parts of 5 shuffled folds.
        seed: of the shuffle.

    Raises:
        InvalidOptionError: shapes that do not match, activations that are not finite.
        AttributeTableError: values other than 0, 1, NaN; no attribute with both values.
    """
    x, y = check_activations(activations), check_attributes(attributes)
    check_rows(len(x), len(y), folds)
    parts = [np.arange(len(x))]
    if folds > 1:
        parts = [train for train, _ in KFold(folds, shuffle=True, random_state=seed).split(x)]
    tables = [_either_sign(auroc(x[rows], y[rows])) for rows in parts]
    tads = [_difference(table, explained_entropy(y[rows])) for table, rows in zip(tables, parts, strict=True)]
    table, explained = _nanmean(np.stack(tables), axis=0), explained_entropy(y)
    best, second = _best_two(table)
    latent = np.where(np.isnan(best), -1, np.argmax(np.nan_to_num(table), axis=1))
    captured = np.flatnonzero((best >= CAPTURED) & (explained <= EXPLAINED))
    return TotalAurocDifference(
        float(np.mean(tads)), float(np.std(tads)), captured, best, second, latent, explained, table
    )


def explained_entropy(attributes: Table) -> Array:
    """(a,) largest share of each attribute's entropy that one other attribute explains: max_{l≠k} I(y_k; y_l) / H(y_k).

    In [0, 1]; only images on which both are known count; 0 for an attribute without entropy.
    """
    y = as_float64(attributes)
    on, off = np.nan_to_num(y == 1).astype(float), (y == 0).astype(float)
    joint = np.stack([[u.T @ v for v in (off, on)] for u in (off, on)])  # (value of k, value of l, k, l) counts
    joint /= np.maximum(joint.sum(axis=(0, 1)), 1)
    own, other = joint.sum(axis=1), joint.sum(axis=0)
    shared = _entropy(own) + _entropy(other) - _entropy(joint.reshape(4, *joint.shape[2:]))
    share: Array = np.divide(shared, _entropy(own), out=np.zeros_like(shared), where=_entropy(own) > 0)
    np.fill_diagonal(share, 0)
    largest: Array = share.max(axis=1)
    return largest


def _entropy(p: Array) -> Array:
    terms: Array = p * np.log(p, out=np.zeros_like(p), where=p > 0)
    negative: Array = terms.sum(axis=0)
    return -negative


def _either_sign(table: Array) -> Array:
    folded: Array = np.maximum(table, 1 - table)
    return folded


def _best_two(table: Array) -> tuple[Array, Array]:
    chance = np.where(np.isnan(table[:, :1]), np.nan, 0.5)  # the rival of a lone latent
    ordered = np.sort(np.concatenate([table, chance], axis=1), axis=1)
    return ordered[:, -1], ordered[:, -2]


def _difference(table: Array, explained: Array) -> float:
    best, second = _best_two(table)
    return float((best - second)[(best >= CAPTURED) & (explained <= EXPLAINED)].sum())


def _nanmean(values: Array, axis: int) -> Array:
    known = ~np.isnan(values)
    count, total = np.sum(known, axis=axis), np.sum(np.where(known, values, 0.0), axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def standardise(train: Array, test: Array) -> tuple[Array, Array]:
    """Both with the mean and deviation of the train rows."""
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[std < 1e-12 * (1 + np.abs(mean))] = 1.0  # a dead prototype stays 0 instead of dividing by 0
    return (train - mean) / std, (test - mean) / std


def _held_out_auroc(x: Array, y: Array, train: NDArray[np.int64], test: NDArray[np.int64]) -> Array:
    """(a,) AUROC on the test rows of regressions fitted on the train rows."""
    x_train, x_test = standardise(x[train], x[test])
    logits = x_test @ logistic_weights(x_train, y[train])[:-1]  # the bias does not change the order
    return np.where(varying(y[train]), np.diagonal(auroc(logits, y[test])), np.nan)


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
        x_train, x_test = standardise(x[train], x[test])
        right[test] = LogisticRegression(max_iter=1000).fit(x_train, y[train]).predict(x_test) == y[test]
    scores = [right[test].mean() for _, test in splits]
    recall = np.bincount(y, right) / np.bincount(y)
    return LinearProbe(float(np.mean(scores)), float(np.std(scores)), recall)
