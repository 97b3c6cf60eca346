"""The faithfulness penalty in closed form."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from patronus_pl.objective import Faithfulness
from patronus_pl.objective.faithfulness import faithfulness_loss
from tests.objective.steps import make_edit, make_step, normal


def test_faithfulness_is_the_squared_distance_of_the_changes() -> None:
    generator = np.random.default_rng(0)
    requested, realised = generator.normal(size=(2, 7, 5))
    found = faithfulness_loss(torch.from_numpy(requested), torch.from_numpy(realised))
    np.testing.assert_allclose(found, np.linalg.norm(requested - realised, axis=1) ** 2)


def test_an_edit_pays_for_what_is_missing_and_for_what_comes_along() -> None:
    requested = torch.tensor([[-2.0, 0, 0]])
    for realised, cost in (([-2.0, 0, 0], 0), ([-1.0, 0, 0], 1), ([-2.0, 0.5, -1], 1.25), ([0.0, 0, 0], 4)):
        assert faithfulness_loss(requested, torch.tensor([realised])).item() == cost


def reader(weights: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Read three activations in 2 × 16 × 16 pixels, each a weighted sum of them."""
    return lambda pictures: pictures.flatten(1) @ weights


def test_value_is_that_of_the_two_pictures_read_again() -> None:
    edit, weights = make_edit(), 0.1 * normal(512, 3, seed=4)
    before, after = (picture.flatten(1).numpy().clip(-1, 1) for picture in (edit.before, edit.after))
    each = (((after - before) @ weights.numpy() - edit.change.numpy()) ** 2).sum(1)
    value = Faithfulness().value(make_step(edit=edit, read=reader(weights)))
    assert value.item() == pytest.approx(each[[0, 1, 3]].sum() / 4, rel=1e-4)


def test_it_teaches_the_reader_and_the_painter_but_not_what_is_asked_for() -> None:
    weights, change = (0.1 * normal(512, 3, seed=4)).requires_grad_(), torch.full((4, 3), 3.0).requires_grad_()
    before, after = (0.1 * normal(4, 2, 16, 16, seed=seed).requires_grad_() for seed in (2, 3))
    before.retain_grad()
    after.retain_grad()
    edit = make_edit(change=change, before=before, after=after)
    Faithfulness().value(make_step(edit=edit, read=reader(weights))).backward()
    assert change.grad is None
    assert all(found.grad is not None and found.grad.any() for found in (before, after, weights))
