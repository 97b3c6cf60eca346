"""What is drawn, with which weights, how often; and that training does not notice."""

import io
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from patronus_pl.callbacks import EMA, Checkpoint, Pictures
from patronus_pl.callbacks import pictures as module
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from tests.callbacks.runs import faces, fresh, trainer

LITTLE: dict[str, Any] = {"share": 1.0, "prototypes": 2, "images": 4, "edited": 1, "steps": 2}
KINDS = ("gallery", "emergence", "reconstructions", "census")


class Draws(Pictures):
    """Keeps the weights it would have drawn with, or raises."""

    def __init__(self, error: Exception | None = None, **options: Any) -> None:
        super().__init__(**{**LITTLE, **options})
        self.error, self.weights = error, list[dict[str, torch.Tensor]]()

    def _draw(self, trainer: pl.Trainer, model: PatronusModule, *_: Any) -> None:
        self.weights.append({name: value.clone() for name, value in model.state_dict().items()})
        if self.error:
            raise self.error


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of two steps with pictures; `weights.pt` is where they ended."""
    folder, model = tmp_path_factory.mktemp("run"), fresh(denoiser={"dropout": 0.3})
    logger = TensorBoardLogger(folder, "runs")
    trainer(folder, Pictures(**LITTLE), EMA(), max_epochs=2, logger=logger).fit(model, faces(train=4))
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder


def test_each_validation_leaves_pictures_in_the_folder_of_the_run(run: Path) -> None:
    pictures = {path.name for path in (run / "runs" / "version_0" / "images").iterdir()}
    assert pictures == {f"{kind}_{step:07d}.png" for kind in KINDS for step in (2, 4)}


def test_tensorboard_has_the_same_pictures_and_what_they_cost(run: Path) -> None:
    events = EventAccumulator(str(run / "runs" / "version_0")).Reload()
    for kind in KINDS:
        logged = events.Images(f"pictures/{kind}")
        assert [event.step for event in logged] == [2, 4]
        shown = np.asarray(Image.open(io.BytesIO(logged[-1].encoded_image_string)).convert("RGB"))
        file = run / "runs" / "version_0" / "images" / f"{kind}_0000004.png"
        assert (shown == np.asarray(Image.open(file).convert("RGB"))).all()
    seconds = [event.value for event in events.Scalars("pictures/seconds")]
    shares = [event.value for event in events.Scalars("pictures/share")]
    assert len(seconds) == len(shares) == 2
    assert min(seconds) > 0
    assert 0 < min(shares) <= max(shares) < 1


def test_it_draws_in_float64_and_the_average_is_in_it(tmp_path: Path) -> None:
    """Lightning leaves what a callback keeps, the average, to the callback; and images come as bytes."""
    model = fresh()
    trainer(tmp_path, Pictures(**LITTLE), EMA(), max_epochs=1, precision="64-true").fit(model, faces(train=4))
    assert {path.name for path in tmp_path.rglob("*.png")} == {f"{kind}_{2:07d}.png" for kind in KINDS}
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float64}


def test_training_is_the_same_without(run: Path, tmp_path: Path) -> None:
    model = fresh(denoiser={"dropout": 0.3})
    trainer(tmp_path, EMA(), max_epochs=2).fit(model, faces(train=4))
    for name, value in torch.load(run / "weights.pt", weights_only=True).items():
        assert torch.equal(model.state_dict()[name], value), name


def test_it_draws_with_the_averaged_weights(tmp_path: Path) -> None:
    draws = Draws()
    trainer(tmp_path, draws, Checkpoint(), EMA(), enable_checkpointing=True).fit(fresh(), faces())
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    (seen,) = draws.weights
    for name, parameter in fresh().named_parameters():
        assert torch.equal(seen[name], saved["state_dict"][name])
        if parameter.numel() > 100:
            assert not torch.equal(seen[name], saved["current_model_state"][name]), name


def test_an_error_is_one_warning_and_training_goes_on(tmp_path: Path) -> None:
    draws = Draws(ValueError("no ink"))
    once = trainer(tmp_path, draws, EMA(), max_epochs=3)
    with pytest.warns(UserWarning, match="Pictures: ValueError: no ink; training goes on without them") as found:
        once.fit(fresh(), faces(train=2))
    assert sum("Pictures" in str(warning.message) for warning in found) == 1
    assert len(draws.weights) == once.global_step == 3


# ---- when ------------------------------------------------------------------------------------------------------------


class Clock:
    """Stands still unless it is told to go on."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def made_up(tmp_path: Path, **attributes: Any) -> MagicMock:
    """A trainer in the middle of a run."""
    state = {
        "sanity_checking": False,
        "fast_dev_run": False,
        "is_global_zero": True,
        "datamodule": faces(),
        "loggers": [],
    }
    return MagicMock(spec=pl.Trainer, log_dir=str(tmp_path), global_step=5, **{**state, **attributes})


def drawn_at(
    clock: Clock, trainer: pl.Trainer, callback: Pictures, monkeypatch: pytest.MonkeyPatch, cost: float = 5.0
) -> tuple[list[int], list[dict[str, float]]]:
    """At which of twelve validations, ten seconds after each other, it draws, and what it logs."""
    numbers, logged = list[int](), list[dict[str, float]]()
    model = fresh()
    model.log = lambda name, value, **_: logged.append({name: value})  # type: ignore[method-assign, assignment]

    def draw(*_: Any) -> None:
        numbers.append(callback._validations)
        clock.now += cost

    monkeypatch.setattr(callback, "_draw", draw)
    callback.on_train_start(trainer, model)
    for _ in range(12):
        clock.now += 10
        callback.on_validation_epoch_end(trainer, model)
    return numbers, logged


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"share": 0.1}, [1, 6, 11]),  # from 10 to 15 s; not before 60, so at 65; not before 115, so at 120
        ({"share": 1.0}, list(range(1, 13))),
        ({"share": 1.0, "every": 5}, [5, 10]),
        ({"share": 0.1, "every": 4}, [4, 12]),  # from 40 to 45 s; at 85 it waits until 90
        ({"share": 0.001}, [1]),
    ],
)
def test_it_draws_no_more_than_its_share(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: list[int]
) -> None:
    numbers, logged = drawn_at(clock, made_up(tmp_path), Pictures(**options), monkeypatch)
    assert numbers == expected
    assert logged[0] == {"pictures/seconds": 5.0}
    assert logged[-1]["pictures/share"] == pytest.approx(5 * len(expected) / (10 * expected[-1] + 5 * len(expected)))


@pytest.mark.parametrize(
    "state", [{"sanity_checking": True}, {"fast_dev_run": True}, {"is_global_zero": False}, {"datamodule": None}]
)
def test_when_it_does_not_draw(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]
) -> None:
    assert drawn_at(clock, made_up(tmp_path, **state), Pictures(), monkeypatch) == ([], [])


def test_validation_alone_and_other_modules_draw_nothing(tmp_path: Path) -> None:
    draws = Draws()
    trainer(tmp_path, draws).validate(fresh(), faces(), verbose=False)
    draws.on_train_start(made_up(tmp_path), BoringModel())
    draws.on_validation_epoch_end(made_up(tmp_path), BoringModel())
    assert draws.weights == []


@pytest.mark.parametrize("name", ["every", "share", "prototypes", "images", "edited", "steps"])
def test_impossible_options(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"Pictures.{name} is 0; it must be greater than 0"):
        trainer(tmp_path, Pictures(**{name: 0})).fit(fresh(), faces())


# ---- what ------------------------------------------------------------------------------------------------------------


def test_only_what_is_wanted(tmp_path: Path) -> None:
    callback = Pictures(**LITTLE, gallery=False, emergence=False, census=False)
    callback._draw(made_up(tmp_path), fresh(), faces(), tmp_path / "images")
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["reconstructions_0000005.png"]


def test_recovery_is_drawn_of_models_with_masks_alone(tmp_path: Path) -> None:
    masked = fresh(denoiser={"maskable": True}, masks={"class_path": "patronus_pl.objective.masks.Masks"})
    options = {**LITTLE, "images": 8}
    trainer(tmp_path, Pictures(**options), EMA(), max_epochs=1).fit(masked, faces(train=4, val=8))
    kinds = {path.name.split("_")[0] for path in tmp_path.rglob("*.png")}
    assert kinds == {*KINDS, "recovery"}


def test_a_gallery_has_a_row_for_each_prototype() -> None:
    heights = {}
    for count in (1, 3, 100):
        png = Pictures(**{**LITTLE, "prototypes": count}).gallery(fresh(), faces().table("val"))
        heights[count] = Image.open(io.BytesIO(png)).height
    tile, gap = 64, 4
    assert heights[3] - heights[1] == 2 * (tile + gap)
    assert heights[100] == heights[3]  # the model has three


def test_loggers_that_take_images_get_them(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (200, 100, 50)).save(buffer, "PNG")
    logger = MagicMock(spec=[*dir(pl.loggers.Logger), "log_image"])
    logger.__class__ = pl.loggers.Logger
    module.send(logger, "pictures/gallery", buffer.getvalue(), 7)
    (name, (picture,)), options = logger.log_image.call_args
    assert (name, picture.size, picture.getpixel((1, 1)), options) == (
        "pictures/gallery",
        (3, 2),
        (200, 100, 50),
        {"step": 7},
    )
    module.send(CSVLogger(tmp_path), "pictures/gallery", buffer.getvalue(), 7)  # takes none, and is not asked to
