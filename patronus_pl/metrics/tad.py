"""TAD: whether single activations know an attribute, and no other activation knows it as well."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from patronus_pl.metrics.ranking import auroc
from patronus_pl.metrics.tables import (
    Array,
    Table,
    as_float64,
    check_activations,
    check_attributes,
    check_rows,
    nanmean,
)

CAPTURED = 0.75
"""An attribute is captured when its best latent's AUROC is at least this (NashAE)."""
EXPLAINED = 0.2
"""An attribute counts only if no other attribute explains more than this share of its entropy (NashAE)."""


@dataclass(frozen=True)
class TotalAurocDifference:
    """What `total_auroc_difference` found, for m latents and a attributes.

    Attributes:
        tad: sum over captured attributes of best − second best AUROC; the mean over folds.
        std: standard deviation of the sum over folds; 0 with one fold.
        captured: indices of the captured attributes.
        best: (a,) AUROC of the best latent, in [0.5, 1]; NaN where an attribute has one value only.
        second: (a,) AUROC of the next best latent; 0.5 when there is only one.
        latent: (a,) index of the best latent; -1 where `best` is NaN.
        explained: (a,) largest share of the attribute's entropy that one other attribute explains.
        auroc: (a, m) max(AUROC, 1 − AUROC) of every latent for every attribute.
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


def total_auroc_difference(
    activations: Table, attributes: Table, folds: int = 1, seed: int = 0
) -> TotalAurocDifference:
    """Measure how far the best latent of each captured attribute is ahead of the next best (Yeats et al. 2022).

    TAD = Σ_{k captured} (A_k(1) − A_k(2)),  A_kj = max(AUROC, 1 − AUROC) of latent j for attribute k, sorted over j.
    Captured: A_k(1) ≥ 0.75 and max_{l≠k} I(y_k; y_l) / H(y_k) ≤ 0.2, which leaves near copies out.

    Args:
        activations: shape (n, m), finite.
        attributes: shape (n, a), values 0, 1 and NaN (unknown).
        folds: 1 uses all images; the published numbers are the mean over the training parts of 5 shuffled folds.
        seed: seed of the shuffle.

    Raises:
        InvalidOptionError: shapes that do not match, activations that are not finite.
        AttributeTableError: values other than 0, 1, NaN; no attribute with both values.

    Example:
        >>> import numpy as np
        >>> smile, hat = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
        >>> activations = np.stack([smile + 0.1 * hat, hat - 0.1 * smile], axis=1)
        >>> found = total_auroc_difference(activations, np.stack([smile, hat], axis=1))
        >>> found.captured, found.latent, found.tad
        (array([0, 1]), array([0, 1]), 0.5)
    """
    x, y = check_activations(activations), check_attributes(attributes)
    check_rows(len(x), len(y), folds)
    parts = [np.arange(len(x))]
    if folds > 1:
        parts = [train for train, _ in KFold(folds, shuffle=True, random_state=seed).split(x)]
    tables = [_either_sign(auroc(x[rows], y[rows])) for rows in parts]
    tads = [_difference(table, explained_entropy(y[rows])) for table, rows in zip(tables, parts, strict=True)]
    table, explained = nanmean(np.stack(tables), axis=0), explained_entropy(y)
    best, second = _best_two(table)
    latent = np.where(np.isnan(best), -1, np.argmax(np.nan_to_num(table), axis=1))
    captured = np.flatnonzero((best >= CAPTURED) & (explained <= EXPLAINED))
    return TotalAurocDifference(
        float(np.mean(tads)), float(np.std(tads)), captured, best, second, latent, explained, table
    )


def explained_entropy(attributes: Table) -> Array:
    """Return the largest share of each attribute's entropy that one other attribute explains.

    max_{l≠k} I(y_k; y_l) / H(y_k), over the images on which both are known

    Args:
        attributes: shape (n, a), values 0, 1 and NaN.

    Returns:
        Shape (a,), values in [0, 1]; 0 for an attribute without entropy.

    Example:
        >>> import numpy as np
        >>> copies_and_another = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
        >>> print(explained_entropy(copies_and_another).round(6) + 0.0)
        [1. 1. 0.]
    """
    y = as_float64(attributes)
    on, off = np.nan_to_num(y == 1).astype(float), (y == 0).astype(float)
    joint = np.stack([[u.T @ v for v in (off, on)] for u in (off, on)])  # (value of k, value of l, k, l) counts
    joint /= np.maximum(joint.sum(axis=(0, 1)), 1)
    own, other = joint.sum(axis=1), joint.sum(axis=0)
    shared = _entropy(own) + _entropy(other) - _entropy(joint.reshape(4, *joint.shape[2:]))  # I = H(k) + H(l) - H(k, l)
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
