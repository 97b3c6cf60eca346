"""What `patronus test` leaves in the run, and that it leaves the same again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from torch import nn

from patronus_pl.analysis.evaluate import image_quality, networks
from patronus_pl.analysis.evaluate.networks import choose_features, choose_lpips
from patronus_pl.analysis.evaluate.plan import SamplingChanges
from patronus_pl.callbacks import Evaluation
from patronus_pl.cli import main
from patronus_pl.data import Activations
from patronus_pl.denoiser import VectorNet
from patronus_pl.diffusion import NoiseSchedule
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError, OutputError
from patronus_pl.metrics import InceptionFeatures, RandomFeatures, WeightsNotFoundError
from patronus_pl.modules import LatentPrior, PatronusModule
from patronus_pl.modules.checkpoint import save_module
from tests.callbacks.runs import faces, fresh, trainer
from tests.runs import config_args

LITTLE: dict[str, Any] = {"n": 12, "inverted": 2, "sampling": SamplingChanges(steps=2)}
OPTIONS = ["--evaluation.n=12", "--evaluation.inverted=2", "--evaluation.sampling.steps=2"]
ONE_RUN = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"]


def tiny_prior(size: int) -> LatentPrior:
    torch.manual_seed(0)
    return LatentPrior(VectorNet(size, width=8, blocks=1), NoiseSchedule(100, beta_start=1e-3, beta_end=0.2))


def evaluation(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of two steps, and the options that test its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    sizes = [f"--data.init_args.{split}_size={n}" for split, n in (("train", 32), ("val", 4), ("test", 12))]
    args = [*config_args("quickstart", folder), *sizes]
    main(["fit", *args, *ONE_RUN])
    left = folder / "runs" / "quickstart" / "version_0"
    return left, [*args, f"--ckpt_path={left / 'checkpoints' / 'last.ckpt'}"]


def test_the_run_gets_the_same_file_each_time(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, args = run
    save_module(tiny_prior(16), tmp_path / "prior.ckpt")
    written = []
    for _ in range(2):
        main(["test", *args, *OPTIONS, f"--evaluation.prior={tmp_path / 'prior.ckpt'}"])
        written.append((folder / "evaluation.json").read_bytes())
    assert written[0] == written[1]
    found = evaluation(folder)
    assert found["model"]["ema"] is True
    assert found["model"]["step"] == 2
    assert found["model"]["checkpoint"] == "last.ckpt"
    assert found["data"]["sizes"] == {"train": 32, "val": 4, "test": 12}
    protocol = found["denoising"]["protocol"]
    assert (protocol["batch_size"], protocol["seed"]) == (2, 0)
    assert protocol["prediction"]["class_path"] == "patronus_pl.diffusion.prediction.Velocity"
    assert found["denoising"]["loss"] > 0
    assert protocol["schedule"]["init_args"]["timesteps"] == 1000
    assert found["distances"]["protocol"]["generated"] == 12
    assert 0.5 <= found["prior"]["two_sample_auc"]["prior"] <= 1
    assert "patronus_pl.metrics.InceptionFeatures" in found["distances"]["FID"]["absent"]
    assert list((folder / "features").glob("*.npz"))


def test_another_seed_is_another_measurement(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    _, args = run
    for seed in (0, 1):
        main(
            ["test", *args, *OPTIONS, f"--evaluation.sampling.seed={seed}", f"--evaluation.out={tmp_path / str(seed)}"]
        )
    one, two = (evaluation(tmp_path / str(seed)) for seed in (0, 1))
    assert one["model"] == two["model"]
    assert one["denoising"] == two["denoising"]
    assert one["reconstruction"]["random"]["mse"] != two["reconstruction"]["random"]["mse"]
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(tmp_path / "0"), str(tmp_path / "1")])
    assert stop.value.code == 2


def test_weights_that_are_not_there_are_named(run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    _, args = run
    features = "--evaluation.features"
    for option in (
        [
            f"{features}=patronus_pl.metrics.InceptionFeatures",
            f"{features}.feature_extractor_weights_path=/nowhere.pth",
        ],
        ["--evaluation.lpips=/nowhere.pth"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(["test", *args, *OPTIONS, *option])
        assert stop.value.code == 2
        assert "no file '/nowhere.pth'; download" in capsys.readouterr().err


def test_training_has_no_such_options(run: tuple[Path, list[str]]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *run[1], "--evaluation.n=3"])
    assert stop.value.code == 2


# ---- without the command line ----------------------------------------------------------------------------------------


def evaluated(folder: Path, model: Any = None, data: Any = None, trial: bool = False, **options: Any) -> None:
    callback = Evaluation(**{**LITTLE, **options})
    trainer(folder, callback, fast_dev_run=trial).test(model or fresh(), data or faces(train=16), verbose=False)


def test_the_paper_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise WeightsNotFoundError("Inception: cannot download")

    monkeypatch.setattr(networks, "InceptionFeatures", gone)
    monkeypatch.setattr(networks, "load_lpips", gone)
    with pytest.warns(UserWarning, match="no FID, distances of random features"):
        features, no_fid = choose_features(None, paper=True, channels=3)
    with pytest.warns(UserWarning, match="no LPIPS"):
        no_lpips = choose_lpips(None, paper=True)
    assert isinstance(features, RandomFeatures)
    assert "--evaluation.features.init_args.feature_extractor_weights_path" in no_fid
    assert "--evaluation.lpips" in str(no_lpips)


def test_what_is_not_said_of_the_sampling_stays_the_presets() -> None:
    assert Evaluation("paper", n=12).plan.sampling == Sampling(1000, "ddim", 0, 64)
    assert Evaluation("paper", sampling=SamplingChanges(steps=50)).plan.sampling == Sampling(50, "ddim", 0, 64)
    assert Evaluation(sampling=SamplingChanges(seed=3)).plan.sampling == Sampling(20, "dpm++", 3, 64)


def test_the_command_line_changes_single_fields_of_the_presets_sampling(
    run: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "load_lpips", lambda _: nn.Identity())  # any network will do: nothing is downloaded
    monkeypatch.setattr(image_quality, "lpips", lambda a, b, network: (a - b).square().mean((1, 2, 3)))
    little = ["--evaluation.n=12", "--evaluation.inverted=2", "--evaluation.sampling.steps=2"]
    local = [f"--evaluation.out={tmp_path}", "--evaluation.features=patronus_pl.metrics.RandomFeatures"]
    main(["test", *run[1], "--evaluation.preset=paper", *little, *local])
    protocol = evaluation(tmp_path)["reconstruction"]["protocol"]
    assert (protocol["sampler"], protocol["steps"], protocol["seed"]) == ("ddim", 2, 0)


def test_a_network_of_the_users_is_not_called_fid() -> None:
    mine = RandomFeatures(3, width=2)
    assert choose_features(mine, paper=False, channels=3) == (mine, "--evaluation.features is RandomFeatures")
    inception = object.__new__(InceptionFeatures)
    assert choose_features(inception, paper=False, channels=3) == (inception, "")


def test_cost_goes_to_a_file_of_its_own(tmp_path: Path) -> None:
    evaluated(tmp_path, cost=True)
    card = json.loads((tmp_path / "cost.json").read_text())
    assert card["model"]["parameters"] > card["unconditional"]["parameters"]
    assert "cost" not in evaluation(tmp_path)
    assert evaluation(tmp_path)["model"]["checkpoint"] is None


def test_a_prior_that_is_not_there_is_told_before_anything_is_measured(
    run: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("the losses were measured")

    monkeypatch.setattr(PatronusModule, "test_step", measured)
    with pytest.raises(SystemExit) as stop:
        main(["test", *run[1], *OPTIONS, "--evaluation.prior=/nowhere"])
    assert stop.value.code == 2
    assert "no checkpoint '/nowhere'" in capsys.readouterr().err


def test_a_prior_is_measured_on_its_own_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", activations=np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32))
    evaluated(tmp_path, tiny_prior(3), Activations(str(tmp_path / "s.npz"), batch_size=8))
    found = evaluation(tmp_path)
    assert found["model"]["class"] == "LatentPrior"
    assert found["denoising"]["loss"] > 0
    assert found["prior"]["protocol"]["test"]["n"] == 20
    assert found["prior"]["two_sample_auc"]["gaussian"] < 0.8
    assert "distances" not in found


def test_when_nothing_is_measured(tmp_path: Path) -> None:
    evaluated(tmp_path, preset="none")
    evaluated(tmp_path, trial=True)
    evaluated(tmp_path, BoringModel(), BoringDataModule())
    assert not list(tmp_path.rglob("evaluation.json"))


@pytest.mark.parametrize("name", ["n", "latents", "inverted"])
def test_impossible_options(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"evaluation.{name} is 0; it must be at least 1"):
        evaluated(tmp_path, **{name: 0})


@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_impossible_sampling(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"evaluation.sampling.{name} is 0; it must be at least 1"):
        evaluated(tmp_path, sampling=SamplingChanges(**{name: 0}))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"choose another --evaluation\.out"):
        evaluated(tmp_path, out=str(tmp_path / "file" / "folder"))
