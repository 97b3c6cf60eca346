"""Every YAML through the commands, on tiny data in the official layouts; and what wrong input gets."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from PIL import Image

from patronus_pl.callbacks import Checkpoint
from patronus_pl.cli import COMMANDS, ENGINES, main
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from tests.data import trees
from tests.runs import CONFIGS, config_args

OVERLAYS = ("paper", "laptop", "edits", "8_gpus", "nodes", "fid")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run without a logger writes goes to the current folder."""
    monkeypatch.chdir(tmp_path)


def names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in OVERLAYS)


@pytest.mark.parametrize("name", names())
def test_config_runs(name: str, tmp_path: Path) -> None:
    args = config_args(name, tmp_path)
    for engine in ("fit", "test", "predict"):
        main([engine, *args, "--trainer.fast_dev_run=true"])
    assert list(tmp_path.glob("data/**/*.ckpt")) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps on planted faces."""
    folder = tmp_path_factory.mktemp("run")
    args = config_args("quickstart", folder)
    main(["fit", *args, "--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"])
    return folder / "runs" / "quickstart" / "version_0"


def test_a_run_leaves_config_checkpoints_and_events(run: Path) -> None:
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert (run / "config.yaml").is_file()
    assert list(run.glob("events.out.tfevents.*"))


def test_saved_config_repeats_the_run(run: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(run / "config.yaml"), f"--trainer.logger.init_args.save_dir={tmp_path}"])
    again = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)["state_dict"]
    first = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, value in first.items():
        assert torch.equal(value, again[name]), name


def test_checkpoint_loads_with_the_average_and_the_ranges(run: Path) -> None:
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    model = PatronusModule.load_from_checkpoint(str(run / "checkpoints/last.ckpt"))
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][name])
    assert not torch.equal(
        checkpoint["state_dict"]["denoiser.first.weight"], checkpoint["current_model_state"]["denoiser.first.weight"]
    )
    assert (model.activation_high > model.activation_low).all()


def interrupt_after(hook: Callable[..., None]) -> Callable[..., None]:
    def interrupted(*args: Any) -> None:
        hook(*args)
        raise KeyboardInterrupt

    return interrupted


def test_resume_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the step and the raw weights of the checkpoint, to the last step that was asked for."""
    args = config_args("quickstart", tmp_path)
    args += ["--trainer.max_steps=6", "--trainer.val_check_interval=3", "--data.init_args.train_size=6"]
    hook = Checkpoint.on_validation_end
    monkeypatch.setattr(Checkpoint, "on_validation_end", interrupt_after(hook))
    with pytest.raises(SystemExit):
        main(["fit", *args, "--trainer.logger.init_args.name=half"])
    monkeypatch.setattr(Checkpoint, "on_validation_end", hook)
    half = next((tmp_path / "runs/half").rglob("last.ckpt"))
    started: list[tuple[int, torch.Tensor]] = []
    monkeypatch.setattr(
        PatronusModule,
        "on_train_epoch_start",
        lambda module: started.append((module.trainer.global_step, module.prototypes.vectors.detach().clone())),
    )
    main(["fit", *args, "--trainer.logger.init_args.name=rest", f"--ckpt_path={half}"])
    checkpoint = torch.load(half, weights_only=True)
    assert [step for step, _ in started] == [3]
    assert torch.equal(started[0][1], checkpoint["current_model_state"]["prototypes.vectors"])
    rest = torch.load(next((tmp_path / "runs/rest").rglob("last.ckpt")), weights_only=True)
    assert rest["global_step"] == 6


def test_paper_overlay_sets_every_choice_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(
            ["fit", *config_args("fashion_mnist", tmp_path), "--config", str(CONFIGS / "paper.yaml"), "--print_config"]
        )
    config = yaml.safe_load(capsys.readouterr().out)
    model = config["model"]["init_args"]
    assert model["prediction"] == {
        "class_path": "patronus_pl.diffusion.Epsilon",
        "init_args": {"timestep_power": 1.0},
    }
    assert (model["objective"], model["lr"]) == (None, 1e-5)
    assert not model["prototypes"]["init_args"]["standardise"]
    assert model["prototypes"]["init_args"]["init"] == "random"
    assert not model["denoiser"]["init_args"]["additive_condition"]
    assert model["encoder"]["init_args"]["init"] == "normal"
    assert model["encoder"]["init_args"]["channels"] == [1, 32, 64, 64, 128]
    assert model["prototypes"]["init_args"]["similarity"] == "euclidean"
    assert model["prototypes"]["init_args"]["temperature"] is None
    assert model["prototypes"]["init_args"]["count"] == 30
    for name in ("EMA", "Revival"):
        assert not any(name in callback["class_path"] for callback in config["trainer"]["callbacks"])


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_laptop_overlay_changes_the_denoiser_and_not_the_data(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = ["--config", str(CONFIGS / "laptop.yaml")]
    printed = []
    for more in ([], overlay):
        with pytest.raises(SystemExit):
            main(["fit", *config_args(name, tmp_path), *more, "--print_config"])
        printed.append(yaml.safe_load(capsys.readouterr().out))
    paper, laptop = (config["model"]["init_args"] for config in printed)
    assert (laptop["denoiser"]["init_args"]["patch"], laptop["denoiser"]["init_args"]["base"]) == (4, 48)
    for key in ("encoder", "prototypes", "image_shape"):
        assert laptop[key] == paper[key]
    assert laptop["denoiser"]["init_args"]["condition_dim"] == paper["denoiser"]["init_args"]["condition_dim"]
    assert printed[1]["trainer"]["max_steps"] == 6000
    assert printed[1]["trainer"]["max_epochs"] in (None, -1)


MANY = [part for name in ("8_gpus", "nodes") for part in ("--config", str(CONFIGS / f"{name}.yaml"))]


def test_overlays_for_many_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for overlays, nodes in ((MANY[:2], 1), (MANY, 4)):
        with pytest.raises(SystemExit):
            main(["fit", *config_args("celeba", tmp_path / str(nodes)), *overlays, "--print_config"])
        config = yaml.safe_load(capsys.readouterr().out)["trainer"]
        assert (config["accelerator"], config["devices"], config["num_nodes"]) == ("gpu", 8, nodes)
        assert (config["strategy"], config["precision"]) == ("ddp", "bf16-mixed")
        names = [callback["class_path"].rpartition(".")[2] for callback in config["callbacks"]]
        assert names[0] == "PrototypeStatistics"
        assert names[-2:] == ["EMA", "Compile"]


def test_overlays_for_many_devices_run_on_one(tmp_path: Path) -> None:
    one = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    one += ["--trainer.enable_model_summary=false"]
    main(["fit", *config_args("quickstart", tmp_path), *MANY, *one, "--trainer.fast_dev_run=true"])


def test_ema_is_last_whatever_is_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(
        Trainer, "fit", lambda trainer, *_, **__: seen.append([type(c).__name__ for c in trainer.callbacks])
    )
    main(["fit", *config_args("quickstart", tmp_path), "--trainer.callbacks+=patronus_pl.callbacks.Pictures"])
    assert "Pictures" in seen[0]
    assert seen[0][-1] == "EMA"


def test_predict_edits_with_the_overlay(run: Path, tmp_path: Path) -> None:
    """A picture a value and image, a grid, and a table whose realised s is that of the picture in the file."""
    args = [*config_args("quickstart", tmp_path), "--config", str(CONFIGS / "edits.yaml")]
    args += ["--trainer.callbacks.steps=2", f"--trainer.callbacks.out={tmp_path / 'out'}"]
    main(["predict", *args, f"--ckpt_path={run / 'checkpoints/last.ckpt'}", "--return_predictions=false"])
    with (tmp_path / "out" / "edits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == {*(f"test-{i:06d}" for i in range(4)), "test-000000_to_test-000001"}
    pictures = list((tmp_path / "out").rglob("test-*.png"))
    assert len(pictures) == 4 * 6 + 9
    model = PatronusModule.load_from_checkpoint(run / "checkpoints/last.ckpt")
    row = next(row for row in rows if row["edit"] == "p0.range=1" and row["prototype"] == "0")
    pixels = torch.tensor(np.asarray(Image.open(tmp_path / "out" / row["file"]))).movedim(-1, 0)[None]
    assert model.encode(as_floats(pixels))[0, 0].item() == pytest.approx(float(row["realised"]), abs=1e-3)


def test_explain_writes_the_report_into_the_run(run: Path) -> None:
    little = [
        "--effort.edited=2",
        "--effort.timed=2",
        "--effort.instants=2",
        "--effort.measured=2",
        "--effort.levels=2",
        "--sampling.steps=2",
    ]
    main(["explain", str(run), "--n=4", "--effort.patches=2", *little])
    report = json.loads((run / "report.json").read_text())
    assert len(report["prototypes"]) == 16
    assert report["protocol"]["data"]["name"] == "PlantedFaces"


def test_encode_then_sample(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.npz"
    main(["encode", str(run), f"--out={file}", "--split=val", "--data", str(run / "config.yaml")])
    (tmp_path / "any.txt").touch()
    assert file.stat().st_mode == (tmp_path / "any.txt").stat().st_mode
    arrays = np.load(file)
    assert arrays["activations"].shape == (4, 16)
    assert arrays["ids"].tolist() == [f"val-{i:06d}" for i in range(4)]
    for n in (2, 3):
        main(["sample", str(run), f"--from={file}", f"--n={n}", "--steps=2", f"--out={tmp_path / str(n)}"])
    first, again = (np.asarray(Image.open(tmp_path / n / "00001.png")).astype(int) for n in ("2", "3"))
    assert abs(first - again).max() <= 1  # the same image at any n; another batch size may round differently
    grid = np.asarray(Image.open(tmp_path / "3" / "grid.png"))
    assert grid.shape == (2 * 34 + 2, 2 * 34 + 2, 3)
    assert np.array_equal(grid[2:34, 36:68], again)


def fitted_prior(folder: Path, size: int) -> Path:
    """The run of a prior of two steps over `size` activations."""
    args = config_args("planted_faces_prior", folder)
    trees.make_activations(folder / "activations.npz", prototypes=size)
    main(["fit", *args, f"--model.init_args.network.init_args.size={size}", "--trainer.max_steps=2"])
    return folder / "runs" / "planted_faces_prior"


def test_sample_from_a_prior(run: Path, tmp_path: Path) -> None:
    prior, out = fitted_prior(tmp_path, 16), tmp_path / "samples"
    main(["sample", str(run), f"--prior={prior}", "--n=3", "--steps=2", f"--out={out}"])
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "00001.png", "00002.png", "grid.png"]


def test_sample_needs_activations_that_fit(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = fitted_prior(tmp_path, 3)
    for source, words in (
        ([f"--prior={prior}", "--from=activations.npz"], "give one of the two"),
        ([f"--prior={prior}"], "gives 3 activations an image, but the checkpoint has 16 prototypes"),
        ([f"--from={tmp_path / 'activations.npz'}"], "gives 3 activations an image, but the checkpoint has 16"),
        ([f"--prior={run}"], "not of LatentPrior"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["sample", str(run), *source, f"--out={tmp_path / 'samples'}"])
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "samples").exists()


def test_import_reference(tmp_path: Path) -> None:
    out = tmp_path / "model.ckpt"
    main(["import-reference", str(Path(__file__).parent / "fixtures/reference_tiny"), f"--out={out}"])
    assert PatronusModule.load_from_checkpoint(out).prototypes.count == 6


def test_interrupted_training_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: PatronusModule, *_: object) -> None:
        if self.trainer.global_step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(PatronusModule, "on_train_batch_end", interrupt)
    with pytest.raises(SystemExit):
        main(["fit", *config_args("quickstart", tmp_path), "--trainer.max_steps=6"])
    last = next(tmp_path.rglob("last.ckpt"))
    assert torch.load(last, weights_only=True)["global_step"] == 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--data.class_path=patronus_pl.data.FashionMNIST", "--data.init_args.root=/nowhere"], "/nowhere"),
        (["--model.init_args.prototypes.init_args.count=0"], "count is 0.*greater than 0"),
        (["--model.init_args.prototypes.init_args.count=7"], "count is 7 but denoiser.condition_dim is 16"),
        (
            ["--model.init_args.image_shape=[3,4,4]", "--model.init_args.encoder.init_args.paddings=[1,0]"],
            "smaller than the encoder's receptive field",
        ),
        (["--data.init_args.image_size=48"], "the data have"),
        (["--data.init_args.batch_size=0"], "batch_size is 0"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *config_args("quickstart", tmp_path), *more])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.search(words, error), error


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = config_args("quickstart", tmp_path)
    args += ["--model.init_args.lr=1e30", "--model.init_args.warmup_steps=0", "--trainer.max_steps=20"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *args, "--trainer.gradient_clip_val=null"])
    assert stop.value.code == 2
    assert "at step" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in (*ENGINES, *COMMANDS))


def test_a_reader_that_goes_away_is_no_error() -> None:
    """As in `patronus --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "patronus_pl", "--help"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.parametrize("precision", ["16", "bf16"])
def test_weights_of_half_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *config_args("quickstart", tmp_path), f"--trainer.precision={precision}-true"])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"patronus: error: trainer.precision is {precision}-true; ")
    assert f"use {precision}-mixed, " in error
    assert not list(tmp_path.rglob("version_*"))


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["frobnicate"])
    assert stop.value.code == 2
    assert "frobnicate" in capsys.readouterr().err
