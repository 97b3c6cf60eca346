"""`patronus audit` from the command line, on a model that was never trained; and what wrong input gets."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from patronus_pl.analysis.ties import Ties
from patronus_pl.cli import main
from patronus_pl.modules.checkpoint import save_module
from tests.analysis.subjects import faces, tiny_model, with_ranges

DATA = [
    "--data=patronus_pl.data.PlantedFaces",
    *(f"--data.init_args.{name}" for name in ("image_size=16", "train_size=200", "val_size=4", "test_size=100")),
]
LITTLE = ["--n=4", "--plan.precision=0.5", "--plan.steps=2", "--plan.controls=2", "--plan.control_images=2"]
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
        (["--n=1", "--plan.precision=0.1"], "1 images are too few for intervals of ±0.1: about 97 are needed"),
        (['--attributes=["Wig","Smiling"]'], "there is no attribute 'Wig'"),
        (["--data.init_args.limit=12"], "too few attributes vary"),
        (["--judge=exact", "--judge_data=patronus_pl.data.CIFAR10"], "knows planted faces alone, not CIFAR10"),
        (["--out=/proc/nowhere"], "cannot write to '/proc/nowhere'"),
        (["--twin=/nowhere.ckpt"], "no checkpoint '/nowhere.ckpt'"),
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
