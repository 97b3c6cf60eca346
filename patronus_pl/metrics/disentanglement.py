"""DCI: whether each latent serves one attribute, each attribute needs one latent, and the latents know them all."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics.probe import logistic_weights
from patronus_pl.metrics.ranking import auroc
from patronus_pl.metrics.tables import Array, Table, check_activations, check_attributes, check_rows, varying


@dataclass(frozen=True)
class DCI:
    """What `dci` found, for m latents and a attributes; all scores lie in [0, 1], and 1 is best.

    Attributes:
        disentanglement: Σ_i ρ_i D_i, each latent weighted by its share of all importance.
        completeness: mean over attributes of C_k.
        informativeness: mean over attributes of the held-out AUROC (0.5 is chance).
        per_latent: (m,) D_i; 0 for a latent without importance.
        per_attribute: (a,) C_k; 0 for an attribute that no latent predicts, NaN for one with a single value.
        auroc: (a,) held-out; NaN for an attribute with a single value.
        importance: (m, a) R; the columns of attributes with a single value are 0.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    per_latent: Array
    per_attribute: Array
    auroc: Array
    importance: Array


def dci(activations: Table, attributes: Table, penalty: float = 0.01, seed: int = 0) -> DCI:
    """Measure disentanglement, completeness and informativeness (Eastwood & Williams 2018).

    R_ik = |weight of latent i in an L1-penalised logistic regression of attribute k|, on standardised latents.
    D_i = 1 − H_a(R_ik / Σ_k R_ik) over attributes, C_k = 1 − H_m(R_ik / Σ_i R_ik) over latents; bases a and m.
    The regressions are fitted on four fifths of the images; informativeness is measured on the last fifth.

    Args:
        activations: shape (n, m), finite, m ≥ 2.
        attributes: shape (n, a), values 0, 1 and NaN (unknown); at least two have both values.
        penalty: L1 weight beside the mean loss; a latent that correlates less with the residual gets no importance.
        seed: seed of the split.

    Raises:
        InvalidOptionError: shapes that do not match, a single latent or attribute, activations that are not finite.
        AttributeTableError: values other than 0, 1, NaN; no attribute with both values.

    Example:
        >>> import numpy as np
        >>> attributes = np.random.default_rng(0).integers(0, 2, (200, 2))
        >>> found = dci(attributes + 0.0, attributes)
        >>> round(found.disentanglement, 2), round(found.completeness, 2), found.informativeness
        (1.0, 1.0, 1.0)
    """
    x, y = check_activations(activations), check_attributes(attributes)
    check_rows(len(x), len(y), folds=5, at_least=2)
    train, test = next(KFold(5, shuffle=True, random_state=seed).split(x))
    known = varying(y[train])
    if x.shape[1] < 2 or known.sum() < 2:
        raise InvalidOptionError(f"DCI needs 2 latents and 2 varying attributes, not {x.shape[1]} and {known.sum()}")
    scaler = StandardScaler().fit(x[train])
    weights = logistic_weights(scaler.transform(x[train]), y[train], l1=penalty)[:-1]  # of a constant attribute: 0
    importance = np.abs(weights)
    per_latent = _concentration(importance[:, known].T)
    per_attribute = np.where(known, _concentration(importance), np.nan)
    informative = np.where(known, np.diagonal(auroc(scaler.transform(x[test]) @ weights, y[test])), np.nan)
    return DCI(
        disentanglement=float(per_latent @ importance.sum(axis=1) / (importance.sum() or 1.0)),
        completeness=float(np.nanmean(per_attribute)),
        informativeness=float(np.nanmean(informative)),
        per_latent=per_latent,
        per_attribute=per_attribute,
        auroc=informative,
        importance=importance,
    )


def _concentration(importance: Array) -> Array:
    """Return 1 − entropy of each column, with its length as base.

    It is 1 where one row has all the importance, and 0 where all rows have the same, or none.
    """
    empty = importance.sum(axis=0) == 0
    result: Array = 1 - entropy(importance + empty, base=len(importance), axis=0)
    return result
