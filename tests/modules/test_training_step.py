"""What one training step computes beside the denoising loss, and what it costs."""

import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor

from patronus_pl.modules import PatronusModule
from patronus_pl.objective import Edit, Penalty, TrainingStep, take_back
from tests.conftest import ModelFactory
from tests.modules.faces import PLAIN_V, PREDICTIONS, Faces, Tied, fit, images, make_trainer, objective

STILL = {"lr": 1e-12, "denoiser": {"dropout": 0.0}, "prototypes": {"init": "random"}}
"""A model that stays as it is, however long it trains."""
EDITS = ("sparsity", "faithfulness", "looking")


def two_passes(model: PatronusModule, x: Tensor, number: int) -> TrainingStep:
    """The step as the penalties see it, with x̂_0 of two passes: with an image's own s, and with one of another's."""
    draw = model.draw(x, number)
    noise = draw.normal(x.shape[1:])
    t = draw.timesteps(1000, model.prediction.timestep_power, descending=True)
    assert t.diff().max() < 0
    s, k = model.encode(x), len(x) // 2
    z = model.prototypes.standardised(s)
    changed, prototype, valid = take_back(z[:k], z.roll(1, 0)[:k], draw.uniform(s.shape[1])[:k])
    assert valid.any()
    x_t = model.schedule.add_noise(x, noise, t)[:k]
    before, after = (model.denoiser_under(condition)(x_t, t[:k]) for condition in (z[:k], changed))
    edit = Edit(prototype, changed - z[:k], valid, model.similarity_map(x[:k]), before, after)
    field = model.encoder.receptive_field

    def read(pictures: Tensor) -> Tensor:
        return model.prototypes.standardised(model.encode(pictures))

    return TrainingStep(number, s, None, model.prototypes, field, read, edit)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", EDITS)
def test_a_step_judges_the_edit_of_two_passes(make_model: ModelFactory, name: str, kind: dict[str, Any]) -> None:
    """In the fifth step half of the weight has grown; the penalty is that of two passes made here."""
    torch.manual_seed(3)
    model, data = make_model(objective=objective(**{name: 0.3}), prediction=kind, **STILL), Faces(count=6, batch_size=6)
    logged = fit(model, data, steps=5)[-1]
    assert logged["total"] == pytest.approx(logged["train/loss"] + 0.3 * 0.5 * logged[f"train/{name}"], rel=1e-4)
    assert model.objective is not None
    penalty: Penalty = getattr(model.objective, name)
    with torch.no_grad():
        expected = penalty.value(two_passes(model.eval(), images(6), number=4))
    assert expected > 0
    assert logged[f"train/{name}"] == pytest.approx(expected.item(), rel=0.05 if name == "faithfulness" else 0.02)


def test_without_penalties_on_edits_nothing_is_taken_back(make_model: ModelFactory) -> None:
    """A weight of 0 costs nothing: the denoiser paints the six images of the batch once, and no half of them again."""
    names, rows = {f"train/{name}" for name in EDITS}, list[int]()
    for slots, count, batch in (
        (None, 6, [6]),
        (objective(), 6, [6]),
        (objective(decorrelation=0.1, kurtosis=0.1, distinctness=0.1), 6, [6]),
        (objective(sparsity=0.1, faithfulness=0.1, looking=0.1), 6, [9]),
        (objective(sparsity=0.1, faithfulness=0.1, looking=0.1), 1, [1]),
    ):
        rows.clear()
        model = make_model(objective=slots, **STILL)
        model.denoiser.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
        (logged,) = fit(model, Faces(count=count, batch_size=count), steps=1)
        assert rows == batch
        assert names & logged.keys() == (names if batch == [9] else set())


def test_balance_weighs_the_decorrelation(make_model: ModelFactory) -> None:
    """The penalty is NumPy's under weights 4/6 and 4/2: cells hold 6, 6, 2 and 2 of 16 images instead of 4 each."""
    slots = {**objective(), "decorrelation": {"weight": 0.02, "balance": ["Smile", "Hair"]}}
    model, data = make_model(objective=slots, **STILL), Tied(batch_size=16)
    (logged,) = fit(model, data, steps=1)
    weights = np.where(data.attributes[:, 1] == data.attributes[:, 2], 4 / 6, 2.0)
    covariance = np.cov(model.encode(images(16)).detach().double().T, aweights=weights)
    found = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    squared = (found - np.clip(found, -0.2, 0)) ** 2
    expected = (squared.sum() - np.trace(squared)) / len(squared)
    assert logged["train/decorrelation"] == pytest.approx(expected, abs=1e-3)


def test_loss_by_noise_level(make_model: ModelFactory) -> None:
    """A network that says nothing errs by v² = (√ᾱ ε - √(1-ᾱ) x_0)², of mean ᾱ + (1-ᾱ) x_0² over the noise ε."""
    model = make_model(lr=1e-12, prediction=PLAIN_V)
    torch.nn.init.zeros_(model.denoiser.last[2].weight)
    torch.nn.init.zeros_(model.denoiser.last[2].bias)
    trainer = make_trainer(max_epochs=2, limit_val_batches=0)
    trainer.fit(model.train(), Faces())
    batches = images(16).split(4)
    draws = [model.draw(batches[0], step) for step in range(4, 8)]  # of the second epoch: it has begun anew
    noise = torch.stack([draw.normal((1, 16, 16)) for draw in draws]).square().mean((2, 3, 4)).numpy()
    t = np.stack([draw.timesteps(1000, descending=True) for draw in draws])
    np.testing.assert_array_equal(t // 250, np.tile([3, 2, 1, 0], (4, 1)))  # an image of each batch in every quarter
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    power = torch.stack(batches).square().mean((2, 3, 4)).numpy()
    expected = (alpha_bar * noise + (1 - alpha_bar) * power).mean(0)[::-1]
    found = [trainer.callback_metrics[f"train/loss_quartile_{i}"].item() for i in range(1, 5)]
    np.testing.assert_allclose(found, expected, rtol=0.1)  # means over 4 × 256 pixels of noise


def test_batches_of_one_step_have_noise_of_their_own(
    tiny_model: PatronusModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, steps = tiny_model.draw, []
    monkeypatch.setattr(tiny_model, "draw", lambda x, step: steps.append(step) or draw(x, step))
    make_trainer(accumulate_grad_batches=3, max_epochs=2, limit_val_batches=0).fit(tiny_model.train(), Faces())
    assert len(steps) == len(set(steps)) == 8


class Rates(pl.Callback):
    """Learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_learning_rate_warms_up_and_decays(make_model: ModelFactory) -> None:
    """The rate of step k is lr · min(1, (k + 1) / 10) · (0.2 + 0.8 (1 + cos(π k / 100)) / 2)."""
    rates, model = Rates(), make_model(lr=0.1, warmup_steps=10, final_lr=0.2)
    make_trainer(max_epochs=25, limit_val_batches=0, callbacks=[rates]).fit(model.train(), Faces(value=0.0))
    cosine = [0.2 + 0.8 * (1 + math.cos(math.pi * step / 100)) / 2 for step in range(100)]
    np.testing.assert_allclose(rates.seen, [0.1 * min(1, (k + 1) / 10) * cosine[k] for k in range(100)], rtol=1e-6)
