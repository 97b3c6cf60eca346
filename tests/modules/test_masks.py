"""A model that was trained with masks: what its denoiser is told, guidance, training, and checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch

from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.modules.checkpoint import save_module
from patronus_pl.modules.reference import load_reference
from tests.conftest import ModelFactory
from tests.modules.faces import Faces, fit, images, objective

FIXTURE = Path(__file__).parents[1] / "fixtures" / "reference_tiny"
MASKED: dict[str, Any] = {"masks": {"share": 0.5, "start": 1}, "denoiser": {"maskable": True}}
T_OF = torch.tensor([0, 300, 700, 999])


@pytest.fixture
def model(make_model: ModelFactory) -> PatronusModule:
    return make_model(**MASKED)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X_T, S, BASE = some(4, 1, 16, 16), some(4, 3, seed=1), some(4, 3, seed=2)


@torch.no_grad()
def named(model: PatronusModule, s: torch.Tensor = S, *told: Any, **more: Any) -> torch.Tensor:
    return model.denoiser_for(s, *told, **more)(X_T, T_OF)


def test_the_embedding_is_of_what_is_told_and_of_what_is_not(model: PatronusModule) -> None:
    """The input of the condition's layer is [k z, 1 - k]."""
    keep = torch.tensor([[True, False, True]] * 4)
    read = []
    model.denoiser.condition_input.register_forward_hook(lambda _, inputs, output: read.append(inputs[0]))
    model.denoiser.embed_condition(S, keep)
    k = keep.float()
    assert torch.equal(read[0], torch.cat([k * S, 1 - k], dim=1))


def test_told_everything_is_no_mask_bit_for_bit(model: PatronusModule) -> None:
    assert torch.equal(named(model), named(model, S, torch.ones(4, 3, dtype=torch.bool)))


def test_what_is_not_told_does_not_matter(model: PatronusModule) -> None:
    keep = torch.tensor([[True, False, True], [False] * 3, [True] * 3, [True, True, False]])
    other = torch.where(keep, S, BASE)
    assert torch.equal(named(model, S, keep), named(model, other, keep))
    assert (named(model, S, keep) != named(model)).flatten(1).any(1).tolist() == [True, True, False, True]
    assert not torch.equal(named(model), named(model, BASE))


def test_guidance_is_a_line_from_the_base(model: PatronusModule) -> None:
    base, given = named(model, BASE), named(model)
    assert torch.equal(named(model, base=BASE, guidance=0.0), base)
    assert torch.equal(named(model, base=BASE, guidance=1.0), given)
    torch.testing.assert_close(named(model, base=BASE, guidance=3.0), base + 3 * (given - base), rtol=1e-4, atol=1e-4)
    changed = BASE.clone()
    changed[:, 1] += 1
    weights = torch.tensor([9.0, 2.0, 9.0])
    expected = torch.lerp(base, named(model, changed), 2.0)
    torch.testing.assert_close(named(model, changed, base=BASE, guidance=weights), expected, rtol=1e-4, atol=1e-4)


def test_without_a_base_guidance_starts_from_the_model_told_nothing(model: PatronusModule) -> None:
    nothing = named(model, S, torch.zeros(4, 3, dtype=torch.bool))
    expected = torch.lerp(nothing, named(model), 2.0)
    torch.testing.assert_close(named(model, guidance=2.0), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"keep": torch.ones(4, 2, dtype=torch.bool)}, r"keep has shape \(4, 2\), but s has \(4, 3\); make them equal"),
        ({"guidance": float("nan")}, "guidance is nan; give numbers between -100 and 100"),
        ({"guidance": torch.ones(3)}, r"guidance has shape \(3,\) for 3 prototypes; give one number, or with `base`"),
    ],
)
def test_what_the_denoiser_cannot_be_told(model: PatronusModule, told: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        named(model, S, **told)


def test_a_model_without_masks_refuses_them(tiny_model: PatronusModule) -> None:
    for told in ({"keep": torch.ones(4, 3, dtype=torch.bool)}, {"guidance": 2.0}):
        with pytest.raises(InvalidOptionError, match="trained without masks and has to be told all prototypes"):
            named(tiny_model, S, **told)
    named(tiny_model, base=BASE, guidance=2.0)  # guidance of edits needs no masks


def test_imported_models_refuse_masks() -> None:
    model = load_reference(FIXTURE)
    s = torch.zeros(2, model.prototypes.count)
    with pytest.raises(InvalidOptionError, match="trained without masks") as refused:
        model.denoiser_for(s, torch.ones_like(s, dtype=torch.bool))
    assert "\n" not in str(refused.value)


def test_masks_need_a_denoiser_that_can_be_masked(make_model: ModelFactory) -> None:
    with pytest.raises(InvalidOptionError, match=r"model.masks needs a denoiser .* set model.denoiser.maskable"):
        make_model(masks={"share": 0.5})


def test_a_training_with_masks_and_penalties_learns_from_what_is_not_told(make_model: ModelFactory) -> None:
    """Before masking starts the inputs that say what is withheld are 0, and so are their gradients."""
    weights = {"sparsity": 0.5, "faithfulness": 0.01, "looking": 0.1}
    gained = []
    for start in (0, 100):
        masked = {"masks": {"share": 1.0, "start": start}, "denoiser": {"maskable": True}}
        model = make_model(**masked, objective=objective(**weights), lr=1e-3, warmup_steps=0)
        model.weight_decay = 0.0
        before = model.denoiser.condition_input.weight.detach().clone()
        logged = fit(model, Faces(), 6)
        assert all(torch.tensor(list(step.values())).isfinite().all() for step in logged)
        gained.append((model.denoiser.condition_input.weight.detach() - before).abs().amax(0))
    assert (gained[0] > 0).all()
    assert (gained[1][:3] > 0).all()
    assert (gained[1][3:] == 0).all()


def test_an_edit_that_changes_nothing_paints_the_same(make_model: ModelFactory) -> None:
    """All images are alike, so that no prototype can be taken back: both sides are one picture under any mask."""
    model = make_model(
        masks={"share": 1.0}, denoiser={"maskable": True, "dropout": 0.0}, objective=objective(sparsity=1)
    )
    seen = []
    terms = model.objective.terms
    model.objective.terms = lambda step: (seen.append(step.edit), terms(step))[1]
    data = Faces()
    data.rows = [{**row, "image": images(1)[0]} for row in data.rows]
    fit(model, data, 2)
    for edit in seen:
        assert not edit.valid.any()
        torch.testing.assert_close(edit.before, edit.after, rtol=1e-4, atol=1e-5)


def test_checkpoints_keep_masks(model: PatronusModule, tmp_path: Path) -> None:
    save_module(model, tmp_path / "model.ckpt")
    loaded = PatronusModule.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.masks is not None
    assert (loaded.masks.share, loaded.masks.start) == (0.5, 1)
    keep = S > 0
    assert torch.equal(named(loaded, S, keep), named(model, S, keep))


def test_checkpoints_from_before_masks_have_none(tiny_model: PatronusModule, tmp_path: Path) -> None:
    save_module(tiny_model, tmp_path / "model.ckpt")
    stored = torch.load(tmp_path / "model.ckpt", weights_only=True)
    del stored["hyper_parameters"]["masks"]
    del stored["hyper_parameters"]["denoiser"]["init_args"]["maskable"]
    torch.save(stored, tmp_path / "old.ckpt")
    loaded = PatronusModule.load_from_checkpoint(tmp_path / "old.ckpt")
    assert loaded.masks is None
    assert torch.equal(named(loaded), named(tiny_model))
    with pytest.raises(InvalidOptionError, match="trained without masks"):
        named(loaded, S, S > 0)
    with pytest.raises(CheckpointError, match="does not fit"):
        PatronusModule.load_from_checkpoint(tmp_path / "old.ckpt", masks={"class_path": "patronus_pl.objective.Masks"})
