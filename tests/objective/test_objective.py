"""Which penalties are computed, with what weight."""

import pytest
import torch

from patronus_pl.errors import InvalidOptionError
from patronus_pl.objective import (
    Decorrelation,
    Distinctness,
    Faithfulness,
    Kurtosis,
    Looking,
    Objective,
    Penalty,
    Sparsity,
)
from tests.objective.steps import make_edit, make_step, normal

SLOTS: dict[str, type[Penalty]] = {
    "decorrelation": Decorrelation,
    "kurtosis": Kurtosis,
    "sparsity": Sparsity,
    "faithfulness": Faithfulness,
    "looking": Looking,
    "distinctness": Distinctness,
}


def silent() -> dict[str, Penalty]:
    """Every slot switched off."""
    return {name: penalty(weight=0.0) for name, penalty in SLOTS.items()}


def read(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.flatten(1)[:, :3]


@pytest.mark.parametrize(
    ("warmup", "step", "weight"), [(0, 0, 0.3), (100, 0, 0.003), (100, 24, 0.075), (100, 900, 0.3)]
)
@pytest.mark.parametrize("name", SLOTS)
def test_weights_grow(name: str, warmup: int, step: int, weight: float) -> None:
    objective = Objective(**{**silent(), name: SLOTS[name](weight=0.3, warmup=warmup)})
    (term,) = objective.terms(make_step(number=step, edit=make_edit(), read=read))
    assert term.weight == pytest.approx(weight)


@pytest.mark.parametrize("name", SLOTS)
def test_each_slot_has_its_penalty(name: str) -> None:
    penalty = SLOTS[name](weight=0.3)
    step = make_step(edit=make_edit(), read=read)
    (term,) = Objective(**{**silent(), name: penalty}).terms(step)
    assert term.name == name
    assert torch.equal(term.value, penalty.value(step))


def test_a_weight_of_zero_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    for penalty in SLOTS.values():
        monkeypatch.setattr(penalty, "value", lambda *_: pytest.fail("it is off"))
    objective = Objective(**silent())
    assert not objective.active
    assert not objective.judges_edits
    assert list(objective.terms(make_step())) == []


@pytest.mark.parametrize(("name", "judges"), [(n, n in ("sparsity", "faithfulness", "looking")) for n in SLOTS])
def test_edits_are_made_only_for_those_that_judge_them(name: str, judges: bool) -> None:
    assert Objective(**{**silent(), name: SLOTS[name](weight=0.3)}).judges_edits == judges


def test_a_single_image_has_nothing_to_edit() -> None:
    """Half of a batch is edited; the other penalties are computed all the same."""
    assert [term.name for term in Objective(looking=Looking(weight=0.3)).terms(make_step())] == [
        "decorrelation",
        "kurtosis",
    ]


def test_attributes_are_asked_for_only_to_balance() -> None:
    assert not Objective().balances
    objective = Objective(decorrelation=Decorrelation(balance=["Hair", "Hat"]))
    assert objective.balances
    rows = normal(8, 2).gt(0).float()
    objective.prepare(["Hat", "Hair"], lambda: rows)
    with pytest.raises(InvalidOptionError, match="balance names 'Hair'"):
        objective.prepare(["Hat"], lambda: rows)


@pytest.mark.parametrize("option", ["weight", "warmup"])
@pytest.mark.parametrize("name", SLOTS)
def test_negative_options(name: str, option: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"objective.{name}.{option} is -1; it must not be negative"):
        SLOTS[name](**{option: -1})
