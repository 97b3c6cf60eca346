"""Moves of s, and what is drawn and judged at their ends: against a painter that does exactly what it is asked."""

import numpy as np
import pytest
import torch
from torch import Tensor

from patronus_pl.analysis.audit.intervene import (
    Moves,
    attribute_moves,
    best_prototype_moves,
    intervene,
    placebo_moves,
    prototype_moves,
    random_prototype_moves,
)
from patronus_pl.diffusion.sampling import Sampling
from tests.analysis.labelled import NAMES, judge, leaking, subject
from tests.analysis.painter import painter


def activations(n: int = 400, agree: float = 0.5) -> tuple[Tensor, Tensor]:
    faces = subject(n, agree)
    return painter().encode(faces.first(n)), torch.from_numpy(faces.attributes)


def test_ends_are_where_they_should_be_and_the_rest_stays() -> None:
    s, y = activations()
    moves = attribute_moves(s, y, NAMES)
    ends = moves.ends(torch.full((len(s),), 2), s)
    z, v = (ends - moves.mean) / moves.std, moves.direction[2]
    torch.testing.assert_close(z[:, 0] @ v, moves.low[2].expand(len(s)))
    torch.testing.assert_close(z[:, 1] @ v, moves.high[2].expand(len(s)))
    before = (s - moves.mean) / moves.std
    rest = torch.eye(4) - v[:, None] * v
    torch.testing.assert_close(z[:, 1] @ rest, before @ rest, atol=1e-5, rtol=0)


def test_the_range_is_that_of_real_images() -> None:
    s, y = activations()
    moves = attribute_moves(s, y, NAMES)
    along = ((s - moves.mean) / moves.std) @ moves.direction[1]
    assert moves.low[1].item() == pytest.approx(np.quantile(along, 0.02), abs=1e-5)
    assert moves.high[1].item() == pytest.approx(np.quantile(along, 0.98), abs=1e-5)
    assert torch.equal(moves.size, moves.high - moves.low)


def test_a_direction_points_at_its_own_quarter() -> None:
    s, y = activations()
    torch.testing.assert_close(attribute_moves(s, y, NAMES).direction, torch.eye(4), atol=0.15, rtol=0)


def test_prototypes_move_towards_presence() -> None:
    s, y = activations()
    y[:, 2] = 1 - y[:, 2]
    best, every = best_prototype_moves(s, y, NAMES), prototype_moves(s, y, NAMES)
    expected = torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))
    torch.testing.assert_close(best.direction, expected)
    torch.testing.assert_close(every.direction, expected)
    assert best.names[3] == "beard (prototype 3)"
    assert every.names[3] == "prototype 3 (beard)"
    assert every.own.tolist() == best.own.tolist() == [0, 1, 2, 3]


def test_placebos_go_as_far_as_the_real_moves_and_nowhere_in_particular() -> None:
    s, y = activations(2000)
    moves = attribute_moves(s, y, NAMES)
    placebos = placebo_moves(moves, s, 64)
    torch.testing.assert_close(placebos.size, moves.size.quantile(0.5).expand(64))
    assert (placebos.own == -1).all()
    # A random unit vector of four entries has a mean square of ¼ along any other.
    assert (placebos.direction @ moves.direction.T).square().mean().item() == pytest.approx(0.25, abs=0.05)
    assert not torch.equal(placebo_moves(moves, s, 64, seed=1).direction, placebos.direction)


def test_random_prototypes_go_as_far_and_are_single_ones() -> None:
    s, y = activations()
    moves = attribute_moves(s, y, NAMES)
    drawn = random_prototype_moves(moves, s, 64)
    torch.testing.assert_close(drawn.size, moves.size.quantile(0.5).expand(64))
    which = drawn.direction.argmax(1)
    assert torch.equal(drawn.direction, torch.eye(4)[which])
    assert drawn.names[0] == f"random prototype {which[0]}"
    assert set(which.tolist()) == {0, 1, 2, 3}
    assert (drawn.own == -1).all()
    assert not torch.equal(random_prototype_moves(moves, s, 64, seed=1).direction, drawn.direction)


def straight(s: Tensor) -> Moves:
    """Each quarter from −½ to ½."""
    mean, std = torch.zeros(4), torch.ones(4)
    return Moves(NAMES, torch.arange(4), torch.eye(4), torch.full((4,), -0.5), torch.full((4,), 0.5), mean, std)


def test_scores_are_those_of_what_the_painter_paints() -> None:
    """Quarter 0 also arrives in quarter 1 by a third: moving it by 1 moves the scores by ¼ and by ¹⁄₁₂."""
    s, _ = activations(7)
    model = painter(leaking(of=0, into=1, share=1 / 3))
    seen = intervene(model, judge, 4, straight(s), s, torch.randn(7, 1, 8, 8), Sampling(2, batch_size=6), keep=2)
    assert seen.scores.shape == (4, 7, 2, 4)
    torch.testing.assert_close(seen.change[0], torch.tensor([0.25, 0.25 / 3, 0, 0]).expand(7, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.change[3], torch.tensor([0, 0, 0, 0.25]).expand(7, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.scores[2, :, 1, 2], torch.full((7,), 0.625), atol=1e-4, rtol=0)
    assert seen.pictures.shape == (4, 2, 2, 1, 8, 8)
    assert seen.pictures[3, 0, 0, 0, 7, 7] == 64
    assert seen.pictures[3, 0, 1, 0, 7, 7] == 191
