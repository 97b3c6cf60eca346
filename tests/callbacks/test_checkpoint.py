"""What Ctrl-C leaves, and what other errors leave alone."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from patronus_pl.callbacks import EMA, Checkpoint
from patronus_pl.data import PlantedFaces
from tests.callbacks.runs import faces, fresh, trainer

State = dict[str, torch.Tensor]


class Stop(pl.Callback):
    """Raises something when the given step is about to begin."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise self.error


@pytest.fixture(autouse=True)
def _ctrl_c_works_afterwards() -> Iterator[None]:
    """Lightning ignores further signals once it was interrupted."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def one_batch() -> PlantedFaces:
    """A single image, so that every step sees the same, whatever the order."""
    return faces(train=1, val=1, batch_size=1)


@pytest.fixture
def fit(tmp_path: Path) -> Any:
    def run(name: str, *callbacks: pl.Callback, ckpt: Path | None = None, data: PlantedFaces | None = None) -> Path:
        model = fresh(prototypes={"standardise": False})
        options: dict[str, Any] = {"max_steps": 6, "max_epochs": -1, "enable_checkpointing": True}
        once = trainer(tmp_path / name, *callbacks, Checkpoint(), EMA(), **options)
        once.fit(model, data or one_batch(), ckpt_path=ckpt and str(ckpt), weights_only=True)
        return tmp_path / name / "checkpoints"

    return run


def weights(checkpoint: Path) -> dict[str, State]:
    saved = torch.load(checkpoint, weights_only=True)
    return {key: saved[key] for key in ("state_dict", "current_model_state")}


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path, fit: Any) -> None:
    whole = weights(fit("whole") / "last.ckpt")
    with pytest.raises(SystemExit):
        fit("half", Stop(3, KeyboardInterrupt()))
    half = tmp_path / "half" / "checkpoints" / "last.ckpt"
    assert torch.load(half, weights_only=True)["global_step"] == 3
    first = "denoiser.first.weight"
    assert not torch.allclose(weights(half)["state_dict"][first], whole["state_dict"][first], rtol=1e-3)
    rest = weights(fit("rest", ckpt=half) / "last.ckpt")
    for key, state in whole.items():
        for name, value in state.items():
            torch.testing.assert_close(rest[key][name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_an_interruption_in_the_middle_of_an_epoch_is_saved(tmp_path: Path, fit: Any) -> None:
    with pytest.raises(SystemExit):
        fit("half", Stop(2, KeyboardInterrupt()), data=faces(train=8))
    saved = torch.load(tmp_path / "half" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (saved["global_step"], saved["epoch"]) == (2, 0)
    assert "optimizer_states" in saved


def test_an_interruption_before_the_first_step_leaves_nothing(tmp_path: Path, fit: Any) -> None:
    with pytest.raises(SystemExit):
        fit("none", Stop(0, KeyboardInterrupt()))
    assert not list((tmp_path / "none").rglob("*.ckpt"))


def test_any_other_error_leaves_the_last_checkpoint_as_it_was(tmp_path: Path, fit: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        fit("broken", Stop(5, ZeroDivisionError()), data=faces(train=8))
    last = torch.load(tmp_path / "broken" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4  # the end of the first epoch


def test_steps_after_the_last_validation_are_saved(fit: Any) -> None:
    checkpoints = fit("whole", data=faces(train=8))
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in checkpoints.iterdir()}
    assert steps == {"best.ckpt": 4, "last.ckpt": 6}


class Losses(pl.Callback):
    """Replaces the loss of validation by given ones."""

    def __init__(self, *losses: float) -> None:
        self.losses = list(losses)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("checked", self.losses.pop(0))


def test_best_is_the_lowest_and_last_the_last(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 3, "enable_checkpointing": True}
    once = trainer(tmp_path, Losses(3.0, 1.0, 2.0), Checkpoint("checked"), EMA(), **options)
    once.fit(fresh(), one_batch())
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in (tmp_path).rglob("*.ckpt")}
    assert steps == {"best.ckpt": 2, "last.ckpt": 3}
