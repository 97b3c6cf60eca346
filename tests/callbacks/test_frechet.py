"""The number that is logged, each image counted once, and that training does not notice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from patronus_pl.analysis.editing.decoding import decode_from_noise, encode
from patronus_pl.callbacks import EMA, Checkpoint, SampleDistance
from patronus_pl.callbacks import frechet as module
from patronus_pl.callbacks.frechet import log_name
from patronus_pl.cli import main
from patronus_pl.data import PlantedFaces
from patronus_pl.denoiser import VectorNet
from patronus_pl.diffusion import NoiseSchedule
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import InceptionFeatures, RandomFeatures, extract_features, frechet_distance
from patronus_pl.modules import LatentPrior, PatronusModule
from patronus_pl.modules.checkpoint import save_module
from patronus_pl.pixels import as_floats
from patronus_pl.ranks import Ranks
from patronus_pl.types import ImageBytes
from tests.callbacks.runs import faces, fresh, trainer
from tests.runs import CONFIGS, config_args

NAME = "samples/frechet_distance_RandomFeatures"
LITTLE: dict[str, Any] = {"every": 1, "images": 6, "sampling": Sampling(steps=2, batch_size=4)}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A process whose OpenMP has threads cannot be forked."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network() -> RandomFeatures:
    return RandomFeatures(3, width=2)


def expected(model: PatronusModule, count: int = 6) -> float:
    """The distance, computed from all features at once."""
    model.eval()
    real = as_floats(faces(val=6).table("val").__getitems__(range(count))["image"])
    with torch.no_grad():
        made = torch.cat(list(decode_from_noise(model, encode(model, real), range(count), Sampling(2))))
    return frechet_distance(extract_features(network(), [real]), extract_features(network(), [as_floats(made)]))


def fit(folder: Path, callback: SampleDistance, *others: pl.Callback, **options: Any) -> pl.Trainer:
    running = trainer(folder, callback, *others, **options)
    running.fit(fresh(), faces(train=4, val=6))
    return running


def test_it_logs_the_distance_of_samples_from_real_images(tmp_path: Path) -> None:
    running = fit(tmp_path, SampleDistance(features=network(), **LITTLE))
    logged = float(running.callback_metrics[NAME])
    assert logged == pytest.approx(expected(running.lightning_module), rel=1e-4)  # type: ignore[arg-type]
    assert len(list((tmp_path / "features").glob("*.npz"))) == 1


def test_it_samples_with_the_averaged_weights(tmp_path: Path) -> None:
    options = {"enable_checkpointing": True, "max_epochs": 2}
    running = fit(tmp_path, SampleDistance(features=network(), **LITTLE), Checkpoint(), EMA(), **options)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    distances = []
    for weights in (saved["state_dict"], {**saved["state_dict"], **saved["current_model_state"]}):
        model = fresh()
        model.load_state_dict(weights)
        distances.append(expected(model))
    logged = float(running.callback_metrics[NAME])
    assert logged == pytest.approx(distances[0], rel=1e-4)
    assert logged != pytest.approx(distances[1], rel=1e-3)


def test_training_is_the_same_without(tmp_path: Path) -> None:
    weights = []
    for callbacks in ([SampleDistance(features=network(), **LITTLE)], []):
        model = fresh(denoiser={"dropout": 0.3})
        trainer(tmp_path, *callbacks, EMA(), max_epochs=2).fit(model, faces(train=4, val=6))
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert weights[0].keys() == fresh().state_dict().keys()


def test_every_so_many_validations_and_no_trial_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at: list[int] = []

    def drawn(model: PatronusModule, *_: Any) -> Iterator[ImageBytes]:
        at.append(model.global_step)
        yield torch.zeros(2, 3, 16, 16, dtype=torch.uint8)

    monkeypatch.setattr(module, "decode_from_noise", drawn)
    fit(tmp_path, SampleDistance(every=2), max_epochs=5, num_sanity_val_steps=1)
    assert at == [4, 8]
    fit(tmp_path, SampleDistance(every=1), fast_dev_run=True)
    trainer(tmp_path, SampleDistance(every=1)).validate(fresh(), faces(), verbose=False)
    assert at == [4, 8]


def test_images_from_a_prior(tmp_path: Path) -> None:
    torch.manual_seed(0)
    prior = LatentPrior(VectorNet(3, width=8, blocks=1), NoiseSchedule(100, beta_start=1e-3, beta_end=0.2))
    save_module(prior, tmp_path / "prior.ckpt")
    running = fit(tmp_path, SampleDistance(features=network(), prior=str(tmp_path / "prior.ckpt"), **LITTLE))
    both = [float(running.callback_metrics[name]) for name in (NAME, NAME.replace("/", "/prior/", 1))]
    assert min(both) > 0
    assert both[0] != both[1]


def test_an_error_is_one_warning_and_training_goes_on(tmp_path: Path) -> None:
    callback = SampleDistance(prior="/nowhere.ckpt", features=network(), **LITTLE)
    with pytest.warns(UserWarning, match="SampleDistance: CheckpointError: no checkpoint '/nowhere.ckpt'") as found:
        running = fit(tmp_path, callback, max_epochs=3)
    assert sum("SampleDistance" in str(warning.message) for warning in found) == 1
    assert running.global_step == 6
    assert NAME in running.callback_metrics  # what needs no prior is measured all the same


@pytest.mark.parametrize("name", ["every", "images"])
def test_impossible_options(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"SampleDistance.{name} is 0; it must be at least 1"):
        fit(tmp_path, SampleDistance(**{name: 0}))


@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_impossible_sampling(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"SampleDistance.sampling.{name} is 0; it must be at least 1"):
        fit(tmp_path, SampleDistance(sampling=Sampling(**{name: 0})))


def test_only_inception_is_called_fid() -> None:
    assert log_name(object.__new__(InceptionFeatures)) == "FID"
    assert log_name(network()) == "frechet_distance_RandomFeatures"


# ---- several devices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "ranks"), [(10, 1), (10, 3), (10, 4), (3, 4), (4096, 8)])
def test_each_image_belongs_to_one_rank(count: int, ranks: int) -> None:
    parts = [Ranks(rank, ranks).share(count) for rank in range(ranks)]
    assert sorted(row for part in parts for row in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


class Writes(SampleDistance):
    """Measures without training, and leaves what was logged in a file: a forked process has no other way."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_start(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            Path(trainer.default_root_dir, "distance").write_text(str(float(trainer.callback_metrics[NAME])))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_two_processes_find_the_same_as_one(tmp_path: Path) -> None:
    """Five images: one process has one more."""
    found = []
    for name, options in (("one", {}), ("two", {"devices": 2, "strategy": "ddp_fork"})):
        (tmp_path / name).mkdir()
        callback = Writes(features=network(), **{**LITTLE, "images": 5})
        trainer(tmp_path / name, callback, **options).validate(fresh(), faces(val=6), verbose=False)
        found.append(float((tmp_path / name / "distance").read_text()))
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[0] == pytest.approx(expected(fresh(), 5), rel=1e-4)


# ---- the overlay -----------------------------------------------------------------------------------------------------


def test_the_overlay_logs_the_distance_of_the_averaged_weights(tmp_path: Path) -> None:
    """The value in TensorBoard's file, and the pure function of the same images drawn by the checkpoint's EMA."""
    small = ["--data.init_args.val_size=6", "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    feature = [
        "--trainer.callbacks.features=patronus_pl.metrics.RandomFeatures",
        "--trainer.callbacks.features.width=2",
    ]
    overlay = ["--config", str(CONFIGS / "fid.yaml"), *feature, "--trainer.callbacks.sampling.steps=2"]
    main(["fit", *config_args("quickstart", tmp_path), *overlay, *small, "--trainer.precision=32-true"])
    run = tmp_path / "runs" / "quickstart" / "version_0"
    events = EventAccumulator(str(run))
    events.Reload()
    (logged,) = events.Scalars(NAME)
    model = PatronusModule.load_from_checkpoint(str(run / "checkpoints" / "last.ckpt")).eval()
    validation = as_floats(PlantedFaces(32, train_size=16, val_size=6).table("val").__getitems__(range(6))["image"])
    with torch.no_grad():
        made = torch.cat(list(decode_from_noise(model, encode(model, validation), range(6), Sampling(2))))
    features = [extract_features(network(), [images]) for images in (validation, as_floats(made))]
    assert (logged.step, logged.value) == (1, pytest.approx(frechet_distance(*features), rel=1e-4))
