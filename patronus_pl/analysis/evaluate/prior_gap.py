"""The prior gap: how well activations from a prior can be told from real ones, beside what simple densities achieve."""

import warnings
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from patronus_pl.analysis.protocol import Section
from patronus_pl.metrics import network_hash, two_sample_auc
from patronus_pl.metrics.tables import Array, Table, check_activations
from patronus_pl.modules import LatentPrior
from patronus_pl.types import Activations

FEWEST = 8
"""Number of components of the smallest mixture."""
ROWS_EACH = 100
"""Number of rows that every component must have on average."""


@dataclass(frozen=True)
class Gap:
    """Two-sample AUCs against held-out real activations: at 0.5 no row can be told from a real one, at 1 every row can.

    Attributes:
        prior: AUC of the prior's samples.
        mixture: AUC of samples from a Gaussian mixture with full covariances.
        gaussian: AUC of samples from one Gaussian.
        real: AUC of real activations, the training ones, which is what a perfect prior would reach.
        components: number of components of the mixture.
    """

    prior: float
    mixture: float
    gaussian: float
    real: float
    components: int

    def summary(self) -> dict[str, float]:
        """Return plain numbers, for a logger or JSON."""
        return asdict(self)


def gap_meter(real_train: Table, real_test: Table, prior_samples: Table, seed: int = 0) -> Gap:
    """Test samples of the prior, a Gaussian mixture, a Gaussian and real activations against held-out real ones.

    Each is compared with `real_test` on as many rows as the smallest of the three tables has. Both baselines learn
    from `real_train` and are clamped to its range, as the prior is.

    Args:
        real_train: activations that the prior was trained on, shape (n, m), finite.
        real_test: held-out activations, shape (k, m), finite.
        prior_samples: samples of the prior, shape (l, m), finite.
        seed: seed of baselines and tests.

    Raises:
        InvalidOptionError: the tables differ in their columns, or have rows that are not finite.
    """
    train, test, fake = (check_activations(table) for table in (real_train, real_test, prior_samples))
    count = min(len(train), len(test), len(fake))
    # The regularisation of covariances is absolute: unscaled, it would swamp activations that vary little.
    scaler = StandardScaler().fit(train)
    z = scaler.transform(train)
    mixture, gaussian = _best_mixture(z, seed), _fitted(z, 1, seed)

    def auc(sample: Array) -> float:
        return two_sample_auc(test, sample, seed=seed)

    def drawn(density: GaussianMixture) -> Array:
        sample: Array = scaler.inverse_transform(density.sample(count)[0])
        return sample.clip(train.min(axis=0), train.max(axis=0))

    return Gap(
        prior=auc(fake[:count]),
        mixture=auc(drawn(mixture)),
        gaussian=auc(drawn(gaussian)),
        real=auc(train[np.random.default_rng(seed).permutation(len(train))[:count]]),
        components=mixture.n_components,
    )


def _best_mixture(z: Array, seed: int) -> GaussianMixture:
    """Take four times as many components (8, 32, 128, …) for as long as the Bayesian information criterion improves."""
    best = _fitted(z, FEWEST, seed)
    while 4 * best.n_components <= len(z) // ROWS_EACH:
        larger = _fitted(z, 4 * best.n_components, seed)
        if larger.bic(z) >= best.bic(z):
            break
        best = larger
    return best


def _fitted(z: Array, components: int, seed: int) -> GaussianMixture:
    mixture = GaussianMixture(components, random_state=seed)
    with warnings.catch_warnings():
        # A mixture whose likelihood still creeps up after the last iteration is baseline enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(z)


def prior_protocol(prior: LatentPrior, seed: int) -> Section:
    """Return how a prior is sampled."""
    return {"sampler": "ddim", "steps": prior.default_steps, "seed": seed}


def prior_quality(prior: LatentPrior, s_train: Activations, s_test: Float[Tensor, "k m"], seed: int) -> Section:
    """Return how well samples of the prior can be told from real activations.

    Args:
        prior: the prior.
        s_train: activations that it learned from, shape (n, m).
        s_test: held-out activations, shape (k, m).
        seed: seed of samples, baselines and tests.
    """
    gap = gap_meter(s_train, s_test, prior.sample(len(s_test), seed).cpu(), seed)
    return {"weights": network_hash(prior), "two_sample_auc": gap.summary()}
