"""What Ctrl-C leaves, and what other errors leave alone."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from patronus_pl.callbacks import EMA, Checkpoint
from patronus_pl.data import PlantedFaces
from patronus_pl.errors import OutputError
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


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Heed signals that whoever started the tests may have ignored, as a shell does for what runs in the background."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGHUP)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before:
        signal.signal(number, handler)


class Send(pl.Callback):
    """Sends a signal to this process while a step, or a batch of the validation after it, is computed."""

    def __init__(self, number: signal.Signals, step: int, validating: bool = False) -> None:
        self.number, self.step, self.validating = number, step, validating

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.send(trainer, False)

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.send(trainer, True)

    def send(self, trainer: pl.Trainer, validating: bool) -> None:
        if trainer.global_step == self.step and validating == self.validating and not trainer.sanity_checking:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "step", "validating", "saved"),
    [
        (signal.SIGTERM, 2, False, 3),  # in the middle of an epoch: the step that it met is finished
        (signal.SIGTERM, 4, True, 4),  # in the middle of a validation, which ends with the epoch of four steps
        (signal.SIGINT, 2, False, 3),
        (signal.SIGHUP, 2, False, 3),
    ],
)
def test_a_signal_is_answered_with_a_checkpoint_from_which_the_run_ends_as_if_unbroken(
    number: signal.Signals, step: int, validating: bool, saved: int, tmp_path: Path, fit: Any
) -> None:
    whole = weights(fit("whole", data=faces(train=8)) / "last.ckpt")
    with pytest.raises(SystemExit) as stop:
        fit("half", Send(number, step, validating), data=faces(train=8))
    assert stop.value.code == 128 + number
    half = tmp_path / "half" / "checkpoints" / "last.ckpt"
    assert torch.load(half, weights_only=True)["global_step"] == saved
    rest = weights(fit("rest", ckpt=half, data=faces(train=8)) / "last.ckpt")
    for key, state in whole.items():
        for name, value in state.items():
            torch.testing.assert_close(rest[key][name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_signals_are_given_back_after_the_run(fit: Any) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    fit("whole")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_an_ignored_signal_stays_ignored(fit: Any) -> None:
    """As `nohup` wants it for SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        folder = fit("whole", Send(signal.SIGHUP, 2))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 6


def test_slurm_starts_the_job_again_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: Any) -> None:
    """SIGUSR1 saves where Lightning looks when the job comes back, and asks `scontrol` for it."""
    whole = weights(fit("whole", data=faces(train=8)) / "last.ckpt")
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    for name, value in (("JOB_ID", "17"), ("NTASKS", "1"), ("JOB_NAME", "train"), ("LOCALID", "0"), ("PROCID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(SystemExit) as stop:
        fit("job", Send(signal.SIGUSR1, 2), data=faces(train=8))
    assert stop.value.code == 128 + signal.SIGUSR1
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    (tmp_path / "job" / "checkpoints" / "last.ckpt").unlink()  # it goes on from Lightning's own file
    again = weights(fit("job", data=faces(train=8)) / "last.ckpt")
    for key, state in whole.items():
        for name, value in state.items():
            torch.testing.assert_close(again[key][name], value, msg=lambda text, name=name: f"{name}: {text}")


@contextmanager
def tight_disk() -> Iterator[None]:
    """Let files grow to 20 kB, as if the disk were full then; but not while pytest writes to a file of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path: Path, fit: Any) -> None:
    folder = tmp_path / "full" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"whole")
    with pytest.raises(OutputError, match=r"cannot write '.*best.ckpt' \(File too large\); make room"), tight_disk():
        fit("full")
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("last.ckpt", b"whole")]


def test_a_checkpoint_that_may_not_be_written_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: Any
) -> None:
    """As when a ticket of a network disk runs out: root, who may run these tests, can write anywhere."""

    opened = Path.open

    def denied(self: Path, *arguments: Any, **named: Any) -> Any:
        if ".ckpt" in self.name:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(OutputError, match=r"cannot write '.*best.ckpt' \(Permission denied\)"):
        fit("denied")
    assert list((tmp_path / "denied" / "checkpoints").iterdir()) == []


def test_a_temporary_folder_is_not_needed(monkeypatch: pytest.MonkeyPatch, fit: Any) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    assert (fit("whole") / "last.ckpt").is_file()
