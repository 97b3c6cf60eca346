"""The sparsity penalty in closed form."""

import math

import numpy as np
import pytest
import torch

from patronus_pl.objective import Sparsity
from patronus_pl.objective.sparsity import sparsity_loss
from tests.objective.steps import make_edit, make_step


def test_sparsity_is_the_mean_magnitude_of_the_change() -> None:
    change = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = np.sqrt((change.double().numpy() ** 2).sum(1) + 1e-4).mean((1, 2))
    np.testing.assert_allclose(sparsity_loss(change), expected, rtol=1e-5)


def test_one_thing_each_is_sparser_than_a_share_of_two() -> None:
    """Two prototypes, two places that change by 1: one each; or, rotated by 45°, both in both, by √½."""
    places = torch.zeros(2, 1, 10, 10)
    places[0, 0, :5], places[1, 0, 5:] = 1, 1
    rotated = torch.stack([places[0] + places[1], places[0] - places[1]]) * math.sqrt(0.5)
    ratio = sparsity_loss(rotated).mean() / sparsity_loss(places).mean()
    assert ratio.item() == pytest.approx(math.sqrt(2), rel=0.02)


def test_value_is_the_mean_over_the_images_with_something_to_take_back() -> None:
    edit = make_edit()
    change = (edit.after - edit.before).double().numpy()
    each = np.sqrt((change**2).sum(1) + 1e-4).mean((1, 2))
    value = Sparsity().value(make_step(edit=edit))
    assert value.item() == pytest.approx(each[[0, 1, 3]].sum() / 4, rel=1e-5)
