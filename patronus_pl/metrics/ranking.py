"""AUROC: how well each activation alone ranks images with an attribute above images without it."""

import numpy as np
from scipy.stats import rankdata

from patronus_pl.metrics.tables import Array, Table, as_float64, check_rows, varying


def auroc(scores: Table, labels: Table) -> Array:
    """Return the AUROC of every score for every attribute, computed from midranks (Mann-Whitney).

    AUROC = (Σ_{i: y=1} rank_i − n₁(n₁+1)/2) / (n₁ n₀)

    Args:
        scores: shape (n, k), any range; a tie counts one half.
        labels: shape (n, a), values 0, 1 and NaN; NaN leaves the image out for that attribute.

    Returns:
        Shape (a, k), values in [0, 1]; the row of an attribute with one value only is NaN.

    Example:
        >>> import numpy as np
        >>> print(auroc(np.array([[0.1], [0.4], [0.3], [0.8]]), np.array([[0], [1], [0], [1]])))
        [[1.]]
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
