"""The average against its recursion, written by hand from the weights that each step left."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from patronus_pl.callbacks import EMA, Checkpoint
from patronus_pl.modules import PatronusModule
from tests.callbacks.runs import faces, fresh, trainer

State = dict[str, torch.Tensor]


def state(module: pl.LightningModule) -> State:
    return {name: value.clone() for name, value in module.state_dict().items() if value.is_floating_point()}


class Watch(pl.Callback):
    """Keeps the weights: raw after every step, and those of every validation. Listed before EMA."""

    def __init__(self) -> None:
        self.raw: dict[int, State] = {}
        self.validated: list[State] = []
        self.before: list[State] = []
        self.after: list[State] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.raw.setdefault(trainer.global_step, state(pl_module))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before.append(state(pl_module))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.validated.append(state(pl_module))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.after.append(state(pl_module))


def averages(raw: dict[int, State], decay: float) -> dict[int, State]:
    """θ̄_1 = θ_1, then θ̄_n = d_n θ̄_{n-1} + (1 - d_n) θ_n, d_n = min(decay, (1 + n) / (10 + n))."""
    found = {1: raw[1]}
    for n in range(2, len(raw) + 1):
        d = min(decay, (1 + n) / (10 + n))
        found[n] = {name: d * found[n - 1][name] + (1 - d) * value for name, value in raw[n].items()}
    return found


@pytest.fixture
def model() -> PatronusModule:
    return fresh()


def assert_equal(found: State, expected: State) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("decay", [0.999, 0.3])
def test_the_average_follows_its_recursion(tmp_path: Path, model: PatronusModule, decay: float) -> None:
    watch = Watch()
    trainer(tmp_path, watch, EMA(decay), max_epochs=3).fit(model, faces(val=2))
    expected = averages(watch.raw, decay)
    assert len(expected) == 12
    assert not torch.allclose(expected[12]["denoiser.first.weight"], watch.raw[12]["denoiser.first.weight"], rtol=1e-3)
    for epoch in range(3):
        assert_equal(watch.validated[epoch], expected[4 * (epoch + 1)])
        assert_equal(watch.before[epoch], watch.raw[4 * (epoch + 1)])
        assert_equal(watch.after[epoch], watch.before[epoch])
    assert_equal(state(model), expected[12])


def test_summed_gradients_are_one_step(tmp_path: Path, model: PatronusModule) -> None:
    watch = Watch()
    trainer(tmp_path, watch, EMA(), accumulate_grad_batches=2).fit(model, faces(val=2))
    assert_equal(state(model), averages({n: watch.raw[n] for n in (1, 2)}, 0.999)[2])


def test_a_sanity_check_sees_the_weights_that_training_starts_from(tmp_path: Path, model: PatronusModule) -> None:
    watch, before = Watch(), state(model)
    trainer(tmp_path, watch, EMA(), num_sanity_val_steps=1).fit(model, faces(val=2))
    assert_equal(watch.validated[0], before)
    assert_equal(watch.after[0], before)
    assert_equal(watch.validated[1], averages(watch.raw, 0.999)[4])


def test_a_checkpoint_holds_both_and_a_resumed_run_goes_on_with_both(tmp_path: Path, model: PatronusModule) -> None:
    watch, rest = Watch(), Watch()
    options: dict[str, Any] = {"enable_checkpointing": True}
    trainer(tmp_path / "first", watch, EMA(), Checkpoint(), **options).fit(model, faces(val=2))
    path = tmp_path / "first" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert_equal(checkpoint["state_dict"], averages(watch.raw, 0.999)[4])
    assert_equal(checkpoint["current_model_state"], watch.raw[4])
    other = fresh()
    again = trainer(tmp_path / "second", rest, EMA(), Checkpoint(), max_epochs=2, **options)
    again.fit(other, faces(val=2), ckpt_path=str(path), weights_only=True)
    raw = watch.raw | rest.raw
    assert sorted(raw) == list(range(1, 9))
    assert_equal(state(other), averages(raw, 0.999)[8])


def test_a_checkpoint_at_the_end_of_a_step_holds_its_average(tmp_path: Path, model: PatronusModule) -> None:
    """It is written before it is the turn of the average, which `patronus fit` puts last."""
    watch = Watch()
    options: dict[str, Any] = {"enable_checkpointing": True, "max_steps": 3}
    once = trainer(tmp_path, watch, Checkpoint(minutes=1e-9), EMA(), **options)
    once.callbacks.sort(key=lambda callback: isinstance(callback, EMA))  # type: ignore[attr-defined]
    once.fit(model, faces(val=2))
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert_equal(checkpoint["state_dict"], averages(watch.raw, 0.999)[3])
    assert_equal(checkpoint["current_model_state"], watch.raw[3])
    assert checkpoint["callbacks"]["EMA"] == {"latest_update_step": 3}
    assert_equal(state(model), averages(watch.raw, 0.999)[3])
