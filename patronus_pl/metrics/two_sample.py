"""Two-sample test: whether a classifier can tell two samples apart."""

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics.tables import Table, check_activations


def two_sample_auc(real: Table, fake: Table, folds: int = 5, seed: int = 0) -> float:
    """Return the held-out AUROC of a classifier that is trained to tell fake rows from real ones.

    This is a classifier two-sample test (Lopez-Paz & Oquab 2017) with gradient-boosted trees, which see marginals and
    interactions. It takes equally many rows of both: the larger sample is thinned at random. The value grows with the
    number of rows that the classifier learns from, so compare only values of samples of the same size.

    Args:
        real: shape (n, m), finite.
        fake: shape (k, m), finite.
        folds: number of parts of a stratified, shuffled K-fold.
        seed: seed of the thinning and the shuffle.

    Returns:
        Mean over folds; 0.5 where the two cannot be told apart, 1 where every row can.

    Raises:
        InvalidOptionError: different numbers of columns, rows that are not finite, fewer rows than folds.

    Example:
        >>> import numpy as np
        >>> real = np.random.default_rng(0).normal(size=(60, 2))
        >>> two_sample_auc(real, real + 10)
        1.0
    """
    x, z = check_activations(real), check_activations(fake)
    if x.shape[1] != z.shape[1]:
        raise InvalidOptionError(f"two samples of {x.shape[1]} and {z.shape[1]} columns; give both the same")
    count = min(len(x), len(z))
    if not 2 <= folds <= count:
        raise InvalidOptionError(f"folds is {folds}; with {count} rows of each sample choose 2..{count}")
    rng = np.random.default_rng(seed)
    rows = np.concatenate([sample[rng.permutation(len(sample))[:count]] for sample in (x, z)])
    # With early stopping every fold would have a different number of trees.
    classifier = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    scores = cross_val_score(classifier, rows, np.repeat([0, 1], count), cv=splits, scoring="roc_auc")
    return float(scores.mean())
