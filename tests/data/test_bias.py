import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from patronus_pl.data.bias import BiasedSubset
from patronus_pl.errors import InvalidOptionError


def table(cells: dict[tuple[int, ...], int]) -> NDArray[np.float32]:
    """Rows by their values, in an order that shows nothing of the cells."""
    rows = np.array([values for values, count in cells.items() for _ in range(count)], np.float32)
    return np.random.default_rng(1).permutation(rows)


def correlation(attributes: NDArray[np.float32]) -> float:
    return float(np.corrcoef(attributes.T)[0, 1])


CELLS = {(1, 1): 60, (1, 0): 90, (0, 1): 50, (0, 0): 130}


@pytest.mark.parametrize("rho", [-1.0, -0.8, -0.3, 0.0, 0.15, 0.5, 0.9, 1.0])
def test_reaches_the_wanted_correlation(rho: float) -> None:
    attributes = table(CELLS)
    rows = BiasedSubset({"A,B": rho}).select(attributes, ["A", "B"])
    assert correlation(attributes[rows]) == pytest.approx(rho, abs=0.01)
    assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("rho", [-1.0, -0.5, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("counts", [(4, 7, 5, 6), (9, 2, 3, 1), (1, 6, 6, 9)])
def test_no_larger_subset_has_that_correlation(rho: float, counts: tuple[int, ...]) -> None:
    cells = list(itertools.product((1, 0), repeat=2))
    attributes = table(dict(zip(cells, counts, strict=True)))
    kept = attributes[BiasedSubset({"A,B": rho}).select(attributes, ["A", "B"])]
    reached, sign = correlation(kept), np.sign(rho - correlation(attributes))
    assert sign * (reached - rho) >= -1e-9
    largest = 0
    for keep in itertools.product(*(range(count + 1) for count in counts)):
        subset = np.repeat(np.array(cells), keep, axis=0)
        if len(subset) > largest and (subset.std(0) > 0).all() and sign * (correlation(subset) - rho) >= -1e-9:
            largest = len(subset)
    assert len(kept) == largest


def test_celeba_rule_keeps_61214_images() -> None:
    names = ["Smiling", "Black_Hair", "Blond_Hair", "Brown_Hair"]
    attributes = table(
        {
            (1, 0, 1, 0): 16916,
            (1, 0, 0, 1): 19618,
            (0, 1, 0, 0): 24680,
            (0, 0, 1, 0): 12500,
            (0, 0, 0, 1): 20900,
            (1, 1, 0, 0): 22792,
            (1, 0, 1, 1): 500,
            (0, 1, 0, 1): 1000,
            (0, 0, 0, 0): 45850,
            (1, 0, 0, 0): 37843,
        }
    )
    assert len(attributes) == 202599
    rows = BiasedSubset(rule="celeba_hair_smile").select(attributes, names)
    smile, black, blond, brown = attributes[rows].T
    assert len(rows) == 61214
    assert ((smile * blond).sum(), (smile * brown).sum(), ((1 - smile) * black).sum()) == (16916, 19618, 24680)
    assert np.corrcoef(smile, black)[0, 1] == pytest.approx(-1)


def test_one_of_many_keeps_images_with_exactly_one() -> None:
    attributes = table({(1, 0, 1): 20, (1, 0, 0): 20, (0, 1, 1): 30, (0, 1, 0): 20, (1, 1, 1): 15, (0, 0, 0): 10})
    kept = attributes[BiasedSubset({"A|B,C": 0.6}).select(attributes, ["A", "B", "C"])]
    assert (kept[:, 0] + kept[:, 1] == 1).all()
    assert np.corrcoef(kept[:, 0], kept[:, 2])[0, 1] == pytest.approx(0.6, abs=0.02)


def test_several_pairs_hold_together() -> None:
    attributes = (np.random.default_rng(0).random((20000, 4)) < 0.5).astype(np.float32)
    kept = attributes[BiasedSubset({"A,B": 0.6, "C,D": -0.4, "B,D": 0.2}).select(attributes, ["A", "B", "C", "D"])]
    phi = np.corrcoef(kept.T)
    assert (phi[0, 1], phi[2, 3], phi[1, 3]) == pytest.approx((0.6, -0.4, 0.2), abs=0.01)


def test_unknown_attributes_are_dropped() -> None:
    attributes = table(CELLS)
    attributes[:40, 0] = np.nan
    rows = BiasedSubset({"A,B": 0.5}).select(attributes, ["A", "B"])
    assert rows.min() >= 40


def test_the_seed_decides_and_nothing_else() -> None:
    attributes = table(CELLS)
    first, again, other = (BiasedSubset({"A,B": 0.7}, seed=seed).select(attributes, ["A", "B"]) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert len(first) == len(other)
    assert not np.array_equal(first, other)


def test_description_rebuilds_it() -> None:
    for bias in (BiasedSubset({"A|B,C": 0.5}, seed=3), BiasedSubset(rule="celeba_hair_smile")):
        assert BiasedSubset(**bias.describe()) == bias


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either pairs"),
        ({"pairs": {"A,B": 0.1}, "rule": "celeba_hair_smile"}, "either pairs"),
        ({"pairs": {"A,B": 1.5}}, r"φ = 1.5 for 'A,B'; it must be in \[-1, 1\]"),
        ({"pairs": {"A": 0.5}}, "cannot read the pair 'A'"),
        ({"pairs": {"A,B,C": 0.5}}, "cannot read the pair 'A,B,C'"),
    ],
)
def test_impossible_options(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        BiasedSubset(**arguments)  # type: ignore[arg-type]


def test_impossible_subsets() -> None:
    attributes = table({(1, 1): 5, (0, 1): 5})
    with pytest.raises(InvalidOptionError, match=r"no attribute 'Smile'; the data set has A, B"):
        BiasedSubset({"A,Smile": 0.5}).select(attributes, ["A", "B"])
    with pytest.raises(InvalidOptionError, match=r"the second attribute of 'A,B' is constant over 10 images"):
        BiasedSubset({"A,B": 0.5}).select(attributes, ["A", "B"])
    never_together = table({(1, 0): 5, (0, 1): 5, (0, 0): 5})
    with pytest.raises(InvalidOptionError, match=r"no subset has φ = 0.5 for 'A,B'; images a cell: \[0, 5, 5, 5\]"):
        BiasedSubset({"A,B": 0.5}).select(never_together, ["A", "B"])
    contradiction = (np.random.default_rng(0).random((500, 3)) < 0.5).astype(np.float32)
    with pytest.raises(InvalidOptionError, match=r"constant|no subset"):
        BiasedSubset({"A,B": 1.0, "B,C": 1.0, "A,C": -1.0}).select(contradiction, ["A", "B", "C"])
