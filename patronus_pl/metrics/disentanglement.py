"""DCI: does each latent serve one attribute, does each attribute need one latent, and is it all there?"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy
from sklearn.model_selection import KFold

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics.latent_quality import (
    Array,
    Table,
    auroc,
    check_activations,
    check_attributes,
    check_rows,
    standardise,
    varying,
)
from patronus_pl.metrics.logistic import sparse_logistic_weights


@dataclass(frozen=True)
class DCI:
    """What `dci` found; all scores in [0, 1], 1 is best.

    Attributes:
        disentanglement: Σ_i ρ_i D_i, each latent weighted by its share of all importance.
        completeness: mean of C_k over attributes.
        informativeness: mean over attributes of the held-out AUROC (0.5 is chance).
        per_latent: (m,) D_i; 0 for a latent of no importance.
        per_attribute: (a,) C_k; 0 for an attribute that no latent predicts, NaN for one with a single value.
        auroc: (a,) held-out; NaN for an attribute with a single value.
        importance: (m, a) R, columns of undefined attributes 0.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    per_latent: Array
    per_attribute: Array
    auroc: Array
    importance: Array


def dci(activations: Table, attributes: Table, penalty: float = 0.01, seed: int = 0) -> DCI:
    """Disentanglement, completeness, informativeness (Eastwood & Williams 2018).

    R_ik = |weight of latent i in an L1-penalised logistic regression of attribute k|, on standardised latents.
    D_i = 1 − H_a(R_ik / Σ_k R_ik) over attributes, C_k = 1 − H_m(R_ik / Σ_i R_ik) over latents; bases a and m.
    Fitted on four fifths of the images; informativeness is measured on the last fifth.

    Args:
        activations: (n, m), finite, m ≥ 2.
        attributes: (n, a) of 0, 1 and NaN (unknown); at least two with both values.
        penalty: L1 weight beside the mean loss: latents with less to say get no importance.
        seed: of the split.

    Raises:
        InvalidOptionError: shapes that do not match, a single latent or attribute, activations that are not finite.
        AttributeTableError: values other than 0, 1, NaN; no attribute with both values.
    """
    x, y = check_activations(activations), check_attributes(attributes)
    check_rows(len(x), len(y), folds=5, at_least=2)
    train, test = next(KFold(5, shuffle=True, random_state=seed).split(x))
    known = varying(y[train])
    if x.shape[1] < 2 or known.sum() < 2:
        raise InvalidOptionError(f"DCI needs 2 latents and 2 varying attributes, not {x.shape[1]} and {known.sum()}")
    x_train, x_test = standardise(x[train], x[test])
    weights = sparse_logistic_weights(x_train, np.where(known, y[train], np.nan), penalty)
    importance = np.abs(weights)
    per_latent = _concentration(importance[:, known].T)
    per_attribute = np.where(known, _concentration(importance), np.nan)
    informative = np.where(known, np.diagonal(auroc(x_test @ weights, y[test])), np.nan)
    return DCI(
        disentanglement=float(np.average(per_latent, weights=_safe(importance.sum(axis=1)))),
        completeness=float(np.nanmean(per_attribute)),
        informativeness=float(np.nanmean(informative)),
        per_latent=per_latent,
        per_attribute=per_attribute,
        auroc=informative,
        importance=importance,
    )


def _concentration(importance: Array) -> Array:
    """1 − entropy of each column, base its length: 1 where one row has all, 0 where all have the same, or none."""
    empty = importance.sum(axis=0) == 0
    result: Array = 1 - entropy(importance + empty, base=len(importance), axis=0)
    return result


def _safe(weights: Array) -> Array:
    return weights if weights.any() else np.ones_like(weights)
