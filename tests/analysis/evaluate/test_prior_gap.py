import numpy as np
import pytest
import torch

from patronus_pl.analysis.evaluate.prior_gap import gap_meter
from patronus_pl.errors import InvalidOptionError


def rings(n: int, seed: int) -> np.ndarray:
    """Two thin rings and an entry of tiny scale: no Gaussian, and no mixture of few, looks like that."""
    rng = np.random.default_rng(seed)
    angle, centre = rng.uniform(0, 2 * np.pi, n), rng.choice([-2.0, 2.0], n)
    radius = 1 + 0.05 * rng.normal(size=n)
    return np.stack([centre + radius * np.cos(angle), radius * np.sin(angle), 1e-3 * rng.normal(size=n)], axis=1)


def test_a_perfect_prior_is_as_good_as_real_data_and_a_gaussian_is_not() -> None:
    gap = gap_meter(rings(3200, 0), rings(500, 1), torch.from_numpy(rings(600, 2)))
    assert gap.prior == pytest.approx(0.5, abs=0.06)
    assert gap.real == pytest.approx(0.5, abs=0.06)
    assert gap.mixture < gap.gaussian
    assert gap.gaussian > 0.8
    assert gap.components == 32
    assert gap.summary() == {**gap.summary(), "prior": gap.prior, "components": 32}


def test_a_mixture_of_eight_is_enough_for_data_of_eight_modes() -> None:
    rng = np.random.default_rng(0)
    corners = np.array([[x, y, z] for x in (-3, 3) for y in (-3, 3) for z in (-3, 3)])
    blobs = corners[rng.integers(0, 8, 3700)] + 0.2 * rng.normal(size=(3700, 3))
    gap = gap_meter(blobs[:3200], blobs[3200:], rng.normal(size=(500, 3)))
    assert gap.components == 8
    assert gap.mixture == pytest.approx(0.5, abs=0.06)
    assert gap.prior > 0.9


def test_wrong_input() -> None:
    with pytest.raises(InvalidOptionError, match="two samples of 3 and 2 columns"):
        gap_meter(rings(900, 0), rings(50, 1), rings(50, 2)[:, :2])
