"""How far activations from a prior are from those of real images, beside what simple densities achieve."""

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
"""Components of the smallest mixture."""
ROWS_EACH = 100
"""Rows that every component must have on average."""


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

    Each is compared with `real_test` on as many rows as the smallest of the three samples has. Both baselines learn
    from `real_train` and are clamped to its range, as the prior is.

    Args:
        real_train: (n, m) what the prior was trained on, finite.
        real_test: (k, m) held out, finite.
        prior_samples: (l, m), finite.
        seed: of baselines and tests.

    Raises:
        InvalidOptionError: other columns, or rows that are not finite.
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
    """Of 8, 32, 128, ... components the first that the Bayesian information criterion prefers to four times as many."""
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


def sample(prior: LatentPrior, n: int, seed: int) -> Activations:
    """Activations from nothing, as `prior_protocol` says."""
    return prior.sample(n, seed).cpu()


def prior_protocol(prior: LatentPrior, seed: int) -> Section:
    """How a prior is sampled."""
    return {"sampler": "ddim", "steps": prior.default_steps, "seed": seed}


def prior_quality(prior: LatentPrior, s_train: Activations, s_test: Float[Tensor, "k m"], seed: int) -> Section:
    """The gap meter: how well samples of the prior can be told from real activations.

    Args:
        prior: what draws.
        s_train: (n, m) what it learned from.
        s_test: (k, m) held out.
        seed: of samples, baselines and tests.
    """
    gap = gap_meter(s_train, s_test, sample(prior, len(s_test), seed), seed)
    return {"weights": network_hash(prior), "two_sample_auc": gap.summary()}
