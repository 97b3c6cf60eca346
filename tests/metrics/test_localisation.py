from statistics import NormalDist

import numpy as np
import pytest
import torch

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import pointing_game


def masks_with_square(n=6, size=10):
    """A 4×4 square at rows and columns 2..5; images 4 and 5 lack the part."""
    masks = np.zeros((n, size, size), dtype=bool)
    masks[:4, 2:6, 2:6] = True
    return masks


def wilson(hits, n, z):
    centre, spread = (hits + z * z / 2) / (n + z * z), z * np.sqrt(hits * (n - hits) / n + z * z / 4) / (n + z * z)
    return centre - spread, centre + spread


def test_hits_count_only_where_the_part_is_visible():
    points = np.array([[2, 2], [5, 5], [6, 5], [2.4, 5.4], [3, 3], [3, 3]])
    result = pointing_game(points, masks_with_square())
    assert (result.hit_rate, result.images) == (0.75, 4)
    assert (result.low, result.high) == pytest.approx(wilson(3, 4, NormalDist().inv_cdf(0.975)))
    same = pointing_game(torch.tensor(points), torch.tensor(masks_with_square()).int())
    assert same == result


def test_rows_come_first():
    mask = np.zeros((1, 4, 8), dtype=bool)
    mask[0, 3, 7] = True
    assert pointing_game(np.array([[3, 7]]), mask).hit_rate == 1


def test_base_rate_is_the_area_share_among_possible_centres():
    points, masks = np.full((6, 2), 3), masks_with_square()
    assert pointing_game(points, masks).base_rate == pytest.approx(16 / 100)
    inner = np.stack(np.meshgrid([1, 3, 5], [1, 3, 5], indexing="ij"), axis=-1).reshape(-1, 2)
    assert pointing_game(points, masks, inner).base_rate == pytest.approx(4 / 9)
    assert pointing_game(points, masks, torch.tensor(inner)).base_rate == pytest.approx(4 / 9)


def test_random_points_hit_at_the_base_rate():
    rng = np.random.default_rng(0)
    masks = rng.random((4000, 1, 1)) < 0.5
    masks = masks & (rng.random((4000, 8, 8)) < 0.3)
    result = pointing_game(rng.integers(0, 8, (4000, 2)), masks)
    assert result.hit_rate == pytest.approx(result.base_rate, abs=0.04)
    assert result.low < result.base_rate < result.high


def test_a_part_that_is_never_visible_has_no_rate():
    result = pointing_game(np.zeros((2, 2)), np.zeros((2, 5, 5), dtype=bool))
    assert result.images == 0
    assert np.isnan([result.hit_rate, result.low, result.high, result.base_rate]).all()


def test_wrong_input_is_named():
    with pytest.raises(InvalidOptionError, match="3 points but 6 masks"):
        pointing_game(np.zeros((3, 2)), masks_with_square())
    with pytest.raises(InvalidOptionError, match=r"point \[0, 10\] lies outside an image of \(10, 10\)"):
        pointing_game(np.array([[0, 10]] * 6), masks_with_square())
    with pytest.raises(InvalidOptionError, match=r"point \[-1, 0\] lies outside"):
        pointing_game(np.zeros((6, 2)), masks_with_square(), np.array([[0, 0], [-1, 0]]))
