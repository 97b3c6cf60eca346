"""What `patronus fit`, `validate`, `test` and `predict` do with checkpoints, run folders and options that clash."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from patronus_pl.cli import main
from tests.runs import config_args

STEPS = ["--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"]
QUIET = ["--trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds `runs` with one run of four steps."""
    folder = tmp_path_factory.mktemp("first")
    main(["fit", *config_args("quickstart", folder), *STEPS, *QUIET])
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    """A copy of it to go on from."""
    shutil.copytree(first / "runs", tmp_path / "runs")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line on stderr with which a command ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("patronus: error: ")]
    assert stop.value.code == 2
    assert len(lines) == 1
    return lines[0]


def versions(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "runs" / "quickstart").iterdir())


# ------------------------------------------------------------------------------------------------ which checkpoint


@pytest.mark.parametrize("engine", ["test", "validate", "predict"])
def test_an_untrained_model_is_not_measured(engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, engine, *config_args("quickstart", tmp_path))
    assert f"{engine} needs a trained model; give --ckpt_path" in error
    assert not (tmp_path / "runs").exists()


def test_last_is_the_newest_of_the_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*config_args("quickstart", folder), *STEPS, *QUIET, "--trainer.max_steps=6"]
    main(["fit", *args, "--ckpt_path=last"])
    last = folder / "runs/quickstart/version_1/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 6
    error = refused(capsys, "fit", *args, "--trainer.logger.init_args.name=other", "--ckpt_path=last")
    assert re.search(r"no checkpoint of an earlier run below '.*runs/other'; leave it out to start anew", error)
    assert not (folder / "runs/other").exists()


def test_a_folder_of_a_run_is_a_checkpoint(folder: Path) -> None:
    args = config_args("quickstart", folder)
    main(["validate", *args, *QUIET, f"--ckpt_path={folder / 'runs/quickstart'}"])


def torn(last: Path, path: Path) -> Path:
    path.write_bytes(last.read_bytes()[:20_000])
    return path


def without_optimiser(last: Path, path: Path) -> Path:
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["optimizer_states"]
    torch.save(checkpoint, path)
    return path


def foreign(last: Path, path: Path) -> Path:
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, path)
    return path


def weights_alone(last: Path, path: Path) -> Path:
    torch.save({"weight": torch.zeros(3)}, path)
    return path


def of_a_prior(last: Path, path: Path) -> Path:
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["hyper_parameters"]["_class_path"] = "patronus_pl.modules.LatentPrior"
    torch.save(checkpoint, path)
    return path


def nothing(last: Path, path: Path) -> Path:
    return path


def empty_folder(last: Path, path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, "no checkpoint '.*bad.ckpt'"),
        (empty_folder, "no checkpoints/last.ckpt below"),
        (torn, "is truncated or no checkpoint"),
        (without_optimiser, "holds weights without the state of the optimiser, so training cannot go on from it"),
        (foreign, "another program|weights without the state"),
        (weights_alone, "is no Lightning checkpoint"),
        (of_a_prior, "is a checkpoint of LatentPrior, and the configuration is one of PatronusModule"),
    ],
)
def test_a_bad_checkpoint_is_refused_before_the_data_are_read(
    make: Any, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = make(folder / "runs/quickstart/version_0/checkpoints/last.ckpt", folder / "bad.ckpt")
    data = ["--data.class_path=patronus_pl.data.FashionMNIST", "--data.init_args.root=/nowhere"]
    error = refused(capsys, "fit", *config_args("quickstart", folder), *data, f"--ckpt_path={bad}")
    assert re.search(words, error), error
    assert versions(folder) == ["version_0"]


# --------------------------------------------------------------------------------------- the command line's word wins


def rates(checkpoint: Path) -> tuple[float, float, float]:
    saved = torch.load(checkpoint, weights_only=True)
    group = saved["optimizer_states"][0]["param_groups"][0]
    return group["initial_lr"], group["weight_decay"], saved["lr_schedulers"][0]["base_lrs"][0]


def test_options_on_the_shell_win_over_the_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*config_args("quickstart", folder), *STEPS, *QUIET, "--trainer.max_steps=6", "--ckpt_path=last"]
    options = {"lr": 5e-5, "final_lr": 1.0, "warmup_steps": 0, "seed": 3}
    main(["fit", *args, *(f"--model.init_args.{name}={value}" for name, value in options.items())])
    run = folder / "runs/quickstart/version_1"
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    said = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    for name, value in options.items():
        assert saved["hyper_parameters"][name] == value
        assert said[name] == value
    assert rates(run / "checkpoints/last.ckpt") == (5e-5, 0.01, 5e-5)
    assert saved["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(5e-5)  # constant from the first step


def test_options_in_a_file_win_too(folder: Path) -> None:
    (folder / "more.yaml").write_text("model: {init_args: {lr: 0.0002}}")
    args = [*config_args("quickstart", folder), *STEPS, *QUIET, "--trainer.max_steps=5", "--ckpt_path=last"]
    main(["fit", *args, "--config", "more.yaml"])
    assert rates(folder / "runs/quickstart/version_1/checkpoints/last.ckpt")[0] == 2e-4


def test_what_was_not_said_stays_as_the_checkpoint_has_it(folder: Path) -> None:
    """A run that was started with an option on the shell goes on with it where the files do not speak of it."""
    args = [*config_args("quickstart", folder), *STEPS, *QUIET]
    main(
        [
            "fit",
            *args,
            "--trainer.max_steps=5",
            "--ckpt_path=last",
            "--model.init_args.objective.init_args.sparsity.init_args.weight=0.05",
        ]
    )
    main(["fit", *args, "--trainer.max_steps=6", "--ckpt_path=last"])
    runs = (folder / f"runs/quickstart/version_{k}/checkpoints/last.ckpt" for k in range(3))
    first, second, third = (torch.load(path, weights_only=True)["hyper_parameters"] for path in runs)
    weights = [saved["objective"]["init_args"]["sparsity"]["init_args"]["weight"] for saved in (first, second, third)]
    assert weights == [0.15, 0.05, 0.05]
    assert second == third


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("prototypes.init_args.count=9", "model.prototypes.count is 9, and the checkpoint .* trained with 16"),
        ("denoiser.init_args.base=16", "model.denoiser.base is 16, and the checkpoint .* trained with 8"),
        ("encoder.init_args.channels=[3,32,128]", r"model.encoder.channels is \[3, 32, 128\], .* with \[3, 64, 128\]"),
    ],
)
def test_sizes_cannot_change(option: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*config_args("quickstart", folder), "--ckpt_path=last", f"--model.init_args.{option}"]
    for engine in ("fit", "validate"):
        error = refused(capsys, engine, *args)
        assert re.search(words, error), error


def test_the_time_limit_counts_from_the_resume(folder: Path) -> None:
    args = [*config_args("quickstart", folder), *STEPS, *QUIET, "--trainer.max_time=00:00:01:00"]
    main(["fit", *args, "--trainer.max_steps=5", "--ckpt_path=last"])
    last = folder / "runs/quickstart/version_1/checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["callbacks"]["Timer"] = {"time_elapsed": {"train": 3600.0}}
    torch.save(checkpoint, last)
    main(["fit", *args, "--trainer.max_steps=6", "--ckpt_path=last"])
    assert torch.load(folder / "runs/quickstart/version_2/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


# ----------------------------------------------------------------------------------------------------- run folders


def test_a_folder_that_holds_a_run_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*config_args("quickstart", folder), *STEPS, *QUIET, "--trainer.logger.init_args.version=0"]
    before = (folder / "runs/quickstart/version_0/config.yaml").read_text()
    error = refused(capsys, "fit", *args)
    assert re.search("runs/quickstart/version_0' holds a run; choose another version", error)
    assert (folder / "runs/quickstart/version_0/config.yaml").read_text() == before


def test_a_refused_run_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "fit", *config_args("quickstart", tmp_path), "--data.init_args.image_size=48")
    assert not (tmp_path / "runs").exists()


def test_runs_that_start_together_have_folders_of_their_own(tmp_path: Path) -> None:
    """Lightning counts the folders that are there, and two processes count alike."""
    args = [
        *config_args("quickstart", tmp_path),
        *STEPS,
        *QUIET,
        "--trainer.max_steps=1",
        "--trainer.precision=32-true",
    ]
    command = [sys.executable, "-m", "patronus_pl", "fit", *args]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    runs = sorted((tmp_path / "runs/quickstart").iterdir())
    assert [run.name for run in runs] == ["version_0", "version_1"]
    for run in runs:
        assert len(list(run.glob("events*"))) == 1
        assert (run / "config.yaml").is_file()
        assert (run / "checkpoints/last.ckpt").is_file()


# -------------------------------------------------------------------------------------- what Lightning has to say


def test_without_a_logger_the_learning_rate_is_not_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*config_args("quickstart", tmp_path), *STEPS, *QUIET, "--trainer.logger=false"]
    args = [arg for arg in args if "logger.init_args" not in arg]
    main(["fit", *args, "--trainer.default_root_dir=here"])
    assert (tmp_path / "here/checkpoints/last.ckpt").is_file()
    assert "holds a run" in refused(capsys, "fit", *args, "--trainer.default_root_dir=here")


@pytest.mark.filterwarnings("ignore:.*will not be saved")
def test_without_checkpoints(tmp_path: Path) -> None:
    main(["fit", *config_args("quickstart", tmp_path), *STEPS, *QUIET, "--trainer.enable_checkpointing=false"])
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--trainer.val_check_interval=10", "--trainer.check_val_every_n_epoch=1"],
            "trainer.val_check_interval is 10, and an epoch has 8 batches; .*--trainer.check_val_every_n_epoch null",
        ),
        (["--trainer.accelerator=gpu"], "this machine has no GPU that PyTorch can use; add --trainer.accelerator cpu"),
        (["--trainer.devices=0"], "devices"),
        (["--trainer.strategy=nonsense"], "nonsense"),
        (["--trainer.max_time=soon"], "soon"),
        (
            [f"--trainer.logger={json.dumps({'class_path': 'lightning.pytorch.loggers.CometLogger'})}"],
            "comet",
        ),
    ],
)
def test_what_lightning_refuses_is_one_line(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = config_args("quickstart", tmp_path)
    args = [arg for arg in args if "logger" not in arg or "Comet" not in options[0]]
    if torch.cuda.is_available() and "gpu" in options[0]:
        pytest.skip("there is a GPU")
    error = refused(capsys, "fit", *args, *options)
    assert re.search(words, error), error
    assert not (tmp_path / "runs").exists()


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.rglob("*.part"))
