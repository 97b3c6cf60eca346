"""How far activations from a prior are from those of real images, beside what simple densities achieve."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from patronus_pl.metrics import two_sample_auc
from patronus_pl.metrics.latent_quality import Table, as_float64

COMPONENTS = (1, 8, 32, 128)
"""Sizes of mixtures among which the Bayesian information criterion chooses."""


@dataclass(frozen=True)
class Gap:
    """Two-sample AUC against held-out real activations: 0.5 is perfect, 1 means that every row can be told.

    Attributes:
        prior: of the prior's samples.
        mixture: of a Gaussian mixture with full covariances.
        gaussian: of one Gaussian.
        real: of real activations, the training ones: what a perfect prior gets.
        components: of the mixture.
    """

    prior: float
    mixture: float
    gaussian: float
    real: float
    components: int

    def summary(self) -> dict[str, float]:
        """Plain numbers, for a logger or JSON."""
        return asdict(self)


def gap_meter(real_train: Table, real_test: Table, prior_samples: Table, seed: int = 0) -> Gap:
    """Two-sample AUC of the prior, of a Gaussian mixture, of a Gaussian and of real activations, by the same test.

    All four are compared with `real_test` on equally many rows. Both baselines learn from `real_train` and are clamped to
    its range, as the prior is.

    Args:
        real_train: (n, m) what the prior was trained on.
        real_test: (k, m) held out.
        prior_samples: (l, m), l ≥ k for a fair comparison.
        seed: of baselines and tests.

    Raises:
        InvalidOptionError: fewer samples than held-out rows, other columns, or rows that are not finite.
    """
