"""Which prototypes the denoiser is told in training: the law of the masks."""

import numpy as np
import pytest
import torch
from torch import Tensor

from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules.step_draw import StepDraw
from patronus_pl.objective import Masks, paint
from tests.objective.steps import normal

M, N = 7, 40_000


def drawn(share: float, start: int = 0, number: int = 0) -> Tensor:
    chance = torch.rand(N, M + 2, generator=torch.Generator().manual_seed(0))
    return Masks(share, start).keep(chance, number)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_law_of_the_number_of_prototypes_told(share: float) -> None:
    """Of the masked images a fifth is told nothing; of the others, every number from none to all is equally likely.

    A rate r that is uniform in [0, 1) makes the number told Binomial(m, 1 - r), which is uniform over 0..m.
    """
    told = drawn(share).sum(1)
    expected = np.full(M + 1, share * 0.8 / (M + 1))
    expected[0] += share * 0.2
    expected[M] += 1 - share
    found = np.bincount(told.numpy(), minlength=M + 1) / N
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / N**0.5)


def test_every_prototype_is_told_equally_often() -> None:
    """P(told | masked) = 0.8 / 2."""
    np.testing.assert_allclose(drawn(1.0).float().mean(0), 0.4, atol=4 * 0.5 / N**0.5)


def test_masking_begins_at_its_start() -> None:
    assert drawn(1.0, start=10, number=9).all()
    assert torch.equal(drawn(1.0, start=10, number=10), drawn(1.0))


def test_any_number_of_ranks_draws_the_same() -> None:
    masks, batch = Masks(), torch.empty(6, 1)
    whole = masks.keep(StepDraw(batch, 1, 5).uniform(M + 2), 0)
    for rank in (0, 1):
        half = masks.keep(StepDraw(batch[:3], 1, 5, ranks=2, rank=rank).uniform(M + 2), 0)
        assert torch.equal(half, whole[rank::2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": 0.0}, "model.masks.share is 0.0; choose above 0 and at most 1, or model.masks null"),
        ({"share": 1.5}, "model.masks.share is 1.5"),
        ({"share": float("nan")}, "model.masks.share is nan"),
        ({"start": -1}, "model.masks.start is -1; it must not be negative"),
    ],
)
def test_impossible_masks(options: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        Masks(**options)  # type: ignore[arg-type]


def test_an_edit_sees_the_same_mask_on_both_sides_and_is_told_itself() -> None:
    b, k, m = 6, 4, 5
    own, other, keep = normal(b, m), normal(b, m, seed=1), normal(b, m, seed=2) > 0
    seen: list[Tensor] = []

    def under(condition: Tensor, told: Tensor | None) -> object:
        assert told is not None
        seen.extend((condition, told))
        heard = (condition * told).sum(1)  # all that this denoiser is told
        return lambda x_t, t: x_t + heard[:, None, None, None]

    x_t, t = torch.zeros(b, 1, 2, 2), torch.arange(b)
    painted = paint(under, own, other, x_t, t, torch.rand(b, m), keep, k)  # type: ignore[arg-type]
    told = seen[1]
    assert torch.equal(told[:k], told[b:])
    assert torch.equal(told[k:b], keep[k:])
    for row, j in enumerate(painted.prototype.tolist()):
        expected = keep[row].clone()
        expected[j] = True
        assert torch.equal(told[row], expected)
    torch.testing.assert_close(
        painted.after - painted.clean[:k], painted.change.sum(1)[:, None, None, None].expand(k, 1, 2, 2)
    )
    unchanged = paint(under, own, own, x_t, t, torch.rand(b, m), keep, k)  # type: ignore[arg-type]
    assert not unchanged.valid.any()
    assert torch.equal(unchanged.after, unchanged.clean[:k])
