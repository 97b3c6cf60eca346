"""The looking penalty in closed form, and patch by patch."""

import itertools

import numpy as np
import pytest
import scipy.special
import torch

from patronus_pl.objective import Looking
from patronus_pl.objective.looking import looking_loss
from patronus_pl.prototypes import PrototypeLayer
from tests.objective.steps import FIELD, make_edit, make_step


def test_looking_is_by_how_much_the_best_patch_beats_the_best_that_moves() -> None:
    generator = np.random.default_rng(0)
    similarity, effect = generator.normal(size=(4, 3, 5)), generator.random((4, 3, 5))
    share = np.maximum(effect / effect.max((1, 2), keepdims=True), 1e-3)
    best = scipy.special.logsumexp(2.5 * similarity, axis=(1, 2)) / 2.5
    moving = scipy.special.logsumexp(2.5 * similarity, axis=(1, 2), b=share**2.5) / 2.5
    found = looking_loss(torch.from_numpy(similarity), torch.from_numpy(effect), 2.5)
    np.testing.assert_allclose(found, best - moving)


def test_looking_elsewhere_costs_the_margin_and_descent_moves_the_look() -> None:
    similarity, effect = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    similarity[:, 0, 1], effect[0, 0, 1], effect[1, 2, 3] = 5.0, 0.4, 0.4
    similarity.requires_grad_()
    found = looking_loss(similarity, effect, 100.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 5.0]))  # 0 there, and log 0.001 = -6.9 for the best patch
    found.sum().backward()
    assert similarity.grad is not None
    assert similarity.grad[1, 0, 1].item() == pytest.approx(1)
    assert similarity.grad[1, 2, 3].item() == pytest.approx(-1)
    assert similarity.grad.abs().sum().item() == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("size", [0.0, 1e-6])
def test_looking_asks_nothing_while_nothing_moves(size: float) -> None:
    """Of effects that are rounding none is the largest: which patch moves is then unknown."""
    generator = torch.Generator().manual_seed(0)
    similarity, effect = torch.randn(2, 2, 3, 3, generator=generator, dtype=torch.float64)
    similarity.requires_grad_()
    looking_loss(similarity, size * effect.abs(), 10.0).sum().backward()
    assert similarity.grad is not None
    assert similarity.grad.abs().max() < 1e-12


def middle_mean(change: np.ndarray, row: int, col: int) -> float:
    """Mean over the middle of one patch under a tent, pixel by pixel; outside the image there is nothing."""
    margin = FIELD.size // 3
    tent = np.convolve(*[np.ones((FIELD.size - 2 * margin + 1) // 2)] * 2)  # of an odd width
    top, left = (FIELD.offset + k * FIELD.jump + margin for k in (row, col))
    inside = [
        tent[y - top] * tent[x - left] * change[y, x]
        for y, x in itertools.product(range(top, top + len(tent)), range(left, left + len(tent)))
        if 0 <= y < change.shape[0] and 0 <= x < change.shape[1]
    ]
    return sum(inside) / tent.sum() ** 2


@pytest.mark.parametrize(("temperature", "tau"), [(3.0, 3.0), (None, 10.0)])
def test_value_is_that_of_all_patches_one_by_one(temperature: float | None, tau: float) -> None:
    edit, costs = make_edit(), []
    for change, maps, j in zip(
        (edit.after - edit.before).square().sum(1), edit.similarity, edit.prototype, strict=True
    ):
        similarity = maps[j].double().numpy()
        effect = [middle_mean(change.double().numpy(), *place) ** 0.5 for place in np.ndindex(similarity.shape)]
        share = np.maximum(np.array(effect) / max(*effect, 0.01), 1e-3)
        costs.append(-np.log(np.average(share**tau, weights=np.exp(tau * similarity).ravel())) / tau)
    layer = PrototypeLayer(3, 4, temperature=temperature)
    value = Looking(weight=0.3).value(make_step(edit=edit, prototypes=layer))
    assert value.item() == pytest.approx(sum(np.array(costs)[[0, 1, 3]]) / 4, rel=1e-4)


def test_it_moves_the_look_and_not_the_picture() -> None:
    edit = make_edit()
    for part in (edit.similarity, edit.before, edit.after):
        part.requires_grad_()
    Looking().value(make_step(edit=edit)).backward()
    assert edit.similarity.grad is not None
    assert edit.similarity.grad.any()
    assert edit.before.grad is None
    assert edit.after.grad is None
