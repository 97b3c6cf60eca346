"""`patronus audit` from the command line, on a model that was never trained; and what wrong input gets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from patronus_pl.analysis.audit.ties import Ties
from patronus_pl.cli import main
from patronus_pl.modules.checkpoint import save_module
from tests.analysis.subjects import faces, tiny_model, unlabelled, with_ranges
from tests.data.trees import make_chexpert

CONFIGS = Path(__file__).parents[2] / "configs"
DATA = [
    "--data=patronus_pl.data.PlantedFaces",
    *(f"--data.init_args.{name}" for name in ("image_size=16", "train_size=200", "val_size=4", "test_size=100")),
]
LITTLE = ["--n=4", "--effort.precision=0.5", "--sampling.steps=2", "--effort.controls=2", "--effort.control_images=2"]
NAMES = ["Black_Hair", "Wearing_Red", "Bright_Background"]
FEW = [f"--attributes={json.dumps(NAMES)}"]


class Colours(nn.Module):
    """Knows bright backgrounds by the corners, and red shirts by the last row."""

    attribute_names = ("Bright_Background", "Wearing_Red")

    def forward(self, images: Tensor) -> Tensor:
        corner, shirt = images[:, :, :3, :3].mean((1, 2, 3)), images[:, 0, -1].mean(1)
        return torch.stack([corner, shirt], dim=1).add(1).div(2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained model with the ranges of planted faces."""
    path = tmp_path_factory.mktemp("run") / "model.ckpt"
    save_module(with_ranges(tiny_model(8), faces()), path)
    return str(path)


def audit(checkpoint: str, out: Path, *more: str) -> dict[str, Any]:
    main(["audit", checkpoint, f"--out={out}", *DATA, *LITTLE, *FEW, *more])
    numbers: dict[str, Any] = json.loads((out / "audit.json").read_text())
    return numbers


@pytest.mark.parametrize("judge", ["probe", "cnn", "exact", "tests.commands.test_audit.Colours"])
def test_every_judge_writes_an_audit(checkpoint: str, judge: str, tmp_path: Path) -> None:
    numbers = audit(checkpoint, tmp_path, f"--judge={judge}")
    assert (tmp_path / "audit.html").stat().st_size > 10_000
    assert [attribute["name"] for attribute in numbers["attributes"]] == NAMES
    assert numbers["protocol"]["judge"] == judge.rpartition(".")[2]
    assert numbers["protocol"]["images"] == 4
    assert len(numbers["pairs"]) == 6


def test_the_exact_judge_is_sure_and_an_unknown_attribute_is_not_judged(checkpoint: str, tmp_path: Path) -> None:
    exact = audit(checkpoint, tmp_path, "--judge=exact")["attributes"]
    assert [attribute["auroc"] for attribute in exact] == [1, 1, 1]
    mine = audit(checkpoint, tmp_path, "--judge=tests.commands.test_audit.Colours")["attributes"]
    assert [attribute["judged"] for attribute in mine] == [False, True, True]


def test_the_judge_may_learn_from_other_data(checkpoint: str, tmp_path: Path) -> None:
    other = json.dumps(
        {"class_path": "patronus_pl.data.PlantedFaces", "init_args": {"image_size": 16, "test_size": 30, "seed": 7}}
    )
    numbers = audit(checkpoint, tmp_path, "--judge=exact", f"--judge_data={other}", f"--twin={checkpoint}")
    assert "'seed': 7" in numbers["protocol"]["judge_data"]
    pair = numbers["pairs"][0]
    assert pair["twin"] == pair["tie"]


def test_the_judges_data_may_be_those_of_a_run(checkpoint: str, tmp_path: Path) -> None:
    section = {"class_path": "patronus_pl.data.PlantedFaces", "init_args": {"image_size": 16, "seed": 7}}
    run = tmp_path / "run.yaml"
    run.write_text(json.dumps({"trainer": {}, "data": section}), encoding="utf-8")
    numbers = audit(checkpoint, tmp_path, "--judge=exact", f"--judge-data={run}")
    assert "'seed': 7" in numbers["protocol"]["judge_data"]


class Radiologist(nn.Module):
    """Reads sex, age and devices from the thirds of an image that `chest_xrays` paints."""

    attribute_names = ("Male", "Age_over_60", "Support Devices")

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([third.mean((1, 2, 3)) for third in images.chunk(3, dim=2)], dim=1).add(1).div(2)


def chest_xrays(root: Path) -> list[str]:
    """CheXpert's layout with pictures that show what the table says; returns the options of the data."""
    for row in make_chexpert(root, patients=40)["train"]:
        path, sex, age, *_, devices = row
        shown = np.repeat([sex == "Male", age > 60, devices == "1.0"], 32).astype(np.uint8) * 160 + 40
        Image.fromarray(np.repeat(shown[:, None], 96, axis=1)).save(root / path.partition("/")[2])
    options = {"root": str(root), "image_size": 15, "val_fraction": 0.1}
    given = (f"--data.init_args.{name}={value}" for name, value in options.items())
    return ["--data=patronus_pl.data.CheXpert", *given]


def test_chest_xrays_are_audited_for_sex_age_and_devices(tmp_path: Path) -> None:
    model, names = tiny_model(8, channels=1, size=15), list(Radiologist.attribute_names)
    save_module(with_ranges(model, unlabelled()), tmp_path / "model.ckpt")
    where = [f"--out={tmp_path}", "--split=train", f"--attributes={json.dumps(names)}"]
    judge = "--judge=tests.commands.test_audit.Radiologist"
    main(["audit", str(tmp_path / "model.ckpt"), *where, *chest_xrays(tmp_path / "chests"), *LITTLE, judge])
    numbers = json.loads((tmp_path / "audit.json").read_text())
    assert [(attribute["name"], attribute["auroc"]) for attribute in numbers["attributes"]] == [(n, 1.0) for n in names]
    pairs = {(pair["moved"], pair["attribute"]) for pair in numbers["pairs"]}
    assert pairs == {(a, b) for a in names for b in names if a != b}


def test_the_exit_code_tells_of_ties_beyond_the_limit(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ties, "worst_unexplained", lambda self: 0.25)
    audit(checkpoint, tmp_path, "--judge=exact", "--fail-above=0.3")
    with pytest.raises(SystemExit) as stop:
        audit(checkpoint, tmp_path, "--judge=exact", "--fail-above=0.2")
    assert stop.value.code == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--n=1", "--effort.precision=0.1"], "1 images are too few for intervals of ±0.1: about 97 are needed"),
        (['--attributes=["Wig","Smiling"]'], "there is no attribute 'Wig'"),
        (["--data.init_args.limit=12"], "too few attributes vary"),
        (["--judge=exact", "--judge_data=patronus_pl.data.CIFAR10"], "knows planted faces alone, not CIFAR10"),
        (["--out=/proc/nowhere"], "cannot write to '/proc/nowhere'"),
        (["--twin=/nowhere.ckpt"], "no checkpoint '/nowhere.ckpt'"),
        (["--judge-data=/nowhere.yaml"], "--judge_data /nowhere.yaml: [Errno 2] No such file"),
        ([f"--judge-data={CONFIGS / 'nodes.yaml'}"], "nodes.yaml says of no data what class they are; name a YAML"),
        ([f"--data={CONFIGS / 'nodes.yaml'}"], "nodes.yaml says of no data what class they are; name a YAML"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    more: list[str], words: str, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        audit(checkpoint, tmp_path, *more)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "audit.json").exists()
