"""Compensated edits on models whose effects are linear, where the answer is known."""

import pytest
import torch

from patronus_pl.analysis.audit.compensate import compensated_moves, compensation
from patronus_pl.analysis.audit.intervene import attribute_moves, intervene
from patronus_pl.diffusion.sampling import Sampling
from tests.analysis.labelled import NAMES, judge, leaking, subject
from tests.analysis.painter import painter

ALL = torch.ones(4, dtype=torch.bool)


def test_the_mixture_undoes_the_leak() -> None:
    effects = 2 * torch.eye(4)
    effects[0, 1], effects[2, 1] = 1.2, -0.4
    for target in range(4):
        c = compensation(effects, target, 2.0, ALL, ridge=1e-9)
        torch.testing.assert_close(c @ effects, 2 * torch.eye(4)[target], atol=1e-4, rtol=0)
    torch.testing.assert_close(
        compensation(effects, 0, 2.0, ALL, 1e-9), torch.tensor([1, -0.6, 0, 0]), atol=1e-4, rtol=0
    )


def test_attributes_that_are_not_held_may_move() -> None:
    effects = 2 * torch.eye(4)
    effects[0, 1] = 1.2
    hold = torch.tensor([False, False, True, True])
    torch.testing.assert_close(compensation(effects, 0, 2.0, hold), torch.eye(4)[0], atol=1e-5, rtol=0)


def test_the_ridge_keeps_the_target_and_gives_up_the_rest() -> None:
    """Two moves that do nearly the same: to separate them exactly takes a huge mixture, which noise would decide."""
    effects = torch.tensor([[1.0, 0.99], [0.99, 1.0]])
    hold = torch.ones(2, dtype=torch.bool)
    exact, careful = (compensation(effects, 0, 1.0, hold, ridge) for ridge in (1e-9, 0.05))
    assert exact.abs().max().item() > 20
    assert careful.abs().max().item() < 10
    assert (careful @ effects)[0].item() == pytest.approx(1)


def test_a_move_without_effect_stays_finite() -> None:
    assert compensation(torch.zeros(3, 3), 0, 0.0, torch.ones(3, dtype=torch.bool)).isfinite().all()


def test_a_compensated_edit_moves_the_target_alone() -> None:
    """The painter lets hats drag smiles along by 0.7; the mixture takes that back, and moves hats as far as before."""
    faces = subject()
    model, y = painter(leaking(of=0, into=1, share=0.7)), torch.from_numpy(faces.attributes)
    s = model.encode(faces.first(len(faces.ids)))
    plain = attribute_moves(s, y, NAMES)
    noise = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = intervene(model, judge, 4, plain, s[:20], noise, Sampling(steps=2)).change.mean(1)
    moves = compensated_moves(plain, before, ~torch.eye(4, dtype=torch.bool), s, ridge=1e-6)
    after = intervene(model, judge, 4, moves, s[:20], noise, Sampling(steps=2)).change.mean(1)
    assert before[0, 1].item() > 0.6 * before[0, 0].item()
    torch.testing.assert_close(after.diagonal(), before.diagonal(), atol=2e-3, rtol=0.02)
    assert (after - torch.diag(after.diagonal())).abs().max().item() < 2e-3
