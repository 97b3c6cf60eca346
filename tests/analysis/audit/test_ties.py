"""Ties, their null distribution and their verdicts: against closed forms, and by counting false alarms."""

import numpy as np
import pytest
import torch
from torch import Tensor

from patronus_pl.analysis.attributes.association import Association, associate
from patronus_pl.analysis.audit.ties import Effects, Ties, effects, find_ties, null_ties, tie_matrix

ALL = torch.ones(4, dtype=torch.bool)


def data(phi: float = 0.0, n: int = 4000) -> Association:
    """Four attributes, half of the images with each; the first two correlate."""
    rng = np.random.default_rng(0)
    y = rng.random((n, 4)) < 0.5
    y[:, 1] = np.where(rng.random(n) < (1 + phi) / 2, y[:, 0], ~y[:, 0])
    return associate(torch.from_numpy(y.astype(np.float32)), samples=200)


def measured(tie: float, n: int = 100, noise: float = 0.1) -> Effects:
    """Every move moves its own attribute by 1, and the first the second by `tie`."""
    change = noise * torch.randn(4, n, 4, generator=torch.Generator().manual_seed(0))
    change += torch.eye(4)[:, None]
    change[0, :, 1] += tie
    return effects(change, torch.ones(4), 200)


def null(scale: float = 0.02) -> Tensor:
    return scale * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


def found(tie: float, phi: float = 0.0, **options: object) -> Ties:
    return find_ties(measured(tie), torch.arange(4), ALL, data(phi), null(), **options)  # type: ignore[arg-type]


def test_the_gain_corrects_a_judge_that_errs() -> None:
    """Right on 9 of 10 images with and 8 of 10 without: if all images gain the attribute, its score moves by 0.7."""
    rng = np.random.default_rng(7)
    after, before = rng.random(4000) < 0.9, rng.random(4000) < 0.2
    change = torch.from_numpy(after.astype(np.float32) - before.astype(np.float32))
    share = effects(change[None, :, None], torch.tensor([0.7]))
    assert share.share.item() == pytest.approx(1, abs=0.03)
    assert share.resampled.std().item() == pytest.approx(change.std().item() / 0.7 / 4000**0.5, rel=0.1)


def test_a_model_that_draws_what_its_data_show_has_phi_for_its_ties() -> None:
    """D_b = P(b | a) − P(b | not a), whatever the marginals."""
    rng = np.random.default_rng(0)
    a = rng.random(3000) < 0.3
    b = rng.random(3000) < np.where(a, 0.9, 0.6)
    y = torch.from_numpy(np.stack([a, b], 1).astype(np.float32))
    known = associate(y)
    differences = torch.tensor([[1.0, b[a].mean() - b[~a].mean()], [a[b].mean() - a[~b].mean(), 1.0]])
    torch.testing.assert_close(
        tie_matrix(differences.float(), torch.arange(2), known.spread), known.phi, atol=1e-5, rtol=0
    )


def test_what_was_asked_for_is_no_null_tie() -> None:
    """Effects linear in what is asked of each attribute leave nothing; what is added to them is left."""
    generator = torch.Generator().manual_seed(0)
    overlap, extra = torch.randn(40, 3, generator=generator), torch.randn(40, 3, generator=generator)
    spread = torch.tensor([0.5, 0.4, 0.3])
    asked = overlap * torch.tensor([2.0, -1.0, 3.0])
    assert null_ties(asked * spread, overlap, spread, 2.0).abs().max().item() < 1e-5
    left = null_ties((asked + extra) * spread, overlap, spread, 2.0)
    assert left.std().item() == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize(
    ("tie", "phi", "verdict"),
    [
        (0.0, 0.0, "independent"),
        (0.05, 0.0, "independent"),
        (0.5, 0.0, "introduced"),
        (-0.5, 0.5, "introduced"),
        (0.0, 0.8, "independent"),
        (0.5, 0.5, "in the data"),
        (0.3, 0.8, "in the data"),
        (-0.5, -0.5, "in the data"),
        (0.8, 0.3, "amplified"),
        (-0.8, -0.3, "amplified"),
    ],
)
def test_where_a_tie_comes_from(tie: float, phi: float, verdict: str) -> None:
    ties = found(tie, phi)
    assert ties.verdict[0] == ["itself", verdict, "independent", "independent"]
    assert ties.verdict[2] == ["independent", "independent", "itself", "independent"]
    assert ties.tie[0, 1].item() == pytest.approx(tie, abs=0.05)
    unexplained = abs(tie) - max(0, phi * np.sign(tie))
    expected = max(0, unexplained) if verdict in ("amplified", "introduced") else 0
    assert ties.worst_unexplained() == pytest.approx(expected, abs=0.08)


def test_intervals_hold_the_tie_and_have_the_width_of_its_error() -> None:
    ties = found(0.5)
    assert ties.low[0, 1] < 0.5 < ties.high[0, 1]
    # The mean of 100 changes of standard deviation 0.1, and the same in the denominator.
    assert ties.error[0, 1].item() == pytest.approx(0.01 * (1 + 0.5**2) ** 0.5, rel=0.25)


def test_alternatives_are_no_shortcut_and_take_no_part_in_the_tests() -> None:
    known = data(-1.0)
    known.group[0, 1] = known.group[1, 0] = True
    ties = find_ties(measured(-0.9), torch.arange(4), ALL, known, null())
    assert ties.verdict[0][1] == ties.verdict[1][0] == "one group"
    assert int(ties.tested.sum()) == 10
    assert ties.worst_unexplained() == 0


def test_what_cannot_be_judged_or_moved_gets_no_verdict() -> None:
    change = torch.eye(4)[:, None] + 0.1 * torch.randn(4, 100, 4, generator=torch.Generator().manual_seed(0))
    change[1] -= torch.eye(4)[1]
    usable = torch.tensor([True, True, True, False])
    ties = find_ties(effects(change, torch.ones(4), 200), torch.arange(4), usable, data(), null())
    assert ties.verdict[0] == ["itself", "independent", "independent", "not judged"]
    assert ties.verdict[1] == ["not moved", "itself", "not moved", "not judged"]
    assert ties.verdict[3] == ["not moved", "not moved", "not moved", "itself"]
    assert int(ties.tested.sum()) == 4


def test_ties_that_the_twin_has_too_are_not_found() -> None:
    twin = torch.eye(4)
    twin[0, 1] = 0.5
    assert found(0.5, twin=twin).verdict[0][1] == "independent"
    assert found(0.9, twin=twin).verdict[0][1] == "introduced"


def test_a_model_whose_random_moves_tie_as_much_proves_nothing() -> None:
    ties = find_ties(measured(0.3), torch.arange(4), ALL, data(), null(scale=0.3))
    assert ties.verdict[0][1] == "independent"
    assert ties.null_scale == pytest.approx(0.3, rel=0.2)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Twelve attributes without ties, but with the leaks that random moves have too; no margin to hide behind."""
    rng = torch.Generator().manual_seed(0)
    known = associate((torch.rand(1000, 12, generator=rng) < 0.5).float(), samples=50)
    alarms = []
    for _ in range(40):
        leak = 0.1 * torch.randn(12, 12, generator=rng)
        change = torch.eye(12)[:, None] + leak[:, None] + 0.3 * torch.randn(12, 60, 12, generator=rng)
        measured = effects(change, torch.ones(12), 50)
        random = 0.1 * torch.randn(16, 12, generator=rng)
        usable = torch.ones(12, dtype=torch.bool)
        ties = find_ties(measured, torch.arange(12), usable, known, random, margin=1e-6)
        alarms.append(sum(v not in ("itself", "independent") for row in ties.verdict for v in row))
    assert np.mean([a > 0 for a in alarms]) <= 0.1
    assert np.mean(alarms) / 132 <= 0.005
