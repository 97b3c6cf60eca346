"""How configurations combine: the shell, overlays and included files each change what they name, and nothing else."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from patronus_pl.cli import main
from patronus_pl.modules import PatronusModule
from tests.runs import CONFIGS, config_args

Printed = Callable[..., dict[str, Any]]
DATA_SETS = ("celeba", "chexpert", "cifar10", "fashion_mnist", "ffhq", "my_images")


@pytest.fixture
def printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Printed:
    """Return the whole configuration of a command line that starts from the quickstart."""

    def run(*more: str) -> dict[str, Any]:
        with pytest.raises(SystemExit):
            main(["fit", *config_args("quickstart", tmp_path), *more, "--print_config"])
        config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
        return config

    return run


def changes(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield every place where two configurations differ, without the `init_args` on the way to it."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            inner = path if key == "init_args" else f"{path}.{key}".lstrip(".")
            yield from changes(old.get(key), new.get(key), inner)
    elif old != new:
        yield path, old, new


def test_the_shell_changes_one_weight(printed: Printed) -> None:
    found = printed("--model.objective.sparsity.weight", "0.1")
    assert list(changes(printed(), found)) == [("model.objective.sparsity.weight", 0.15, 0.1)]


def test_an_overlay_changes_one_weight(printed: Printed, tmp_path: Path) -> None:
    (tmp_path / "overlay.yaml").write_text("model: {init_args: {objective: {sparsity: {weight: 0.1}}}}")
    found = printed("--config", str(tmp_path / "overlay.yaml"))
    assert list(changes(printed(), found)) == [("model.objective.sparsity.weight", 0.15, 0.1)]


def test_a_second_objective_file_merges(printed: Printed, tmp_path: Path) -> None:
    """A path in a YAML is read relative to it, and the weights that its file does not name stay."""
    (tmp_path / "more.yaml").write_text("distinctness: {weight: 0.3}\nlooking: {weight: 0.0}")
    (tmp_path / "overlay.yaml").write_text("model: {init_args: {objective: more.yaml}}")
    found = printed("--config", str(tmp_path / "overlay.yaml"))
    assert sorted(changes(printed(), found)) == [
        ("model.objective.distinctness.weight", 0.0, 0.3),
        ("model.objective.looking.weight", 0.15, 0.0),
    ]


def test_an_overlay_of_the_trainer_keeps_what_the_common_file_says(printed: Printed, tmp_path: Path) -> None:
    (tmp_path / "overlay.yaml").write_text("trainer: {gradient_clip_val: 0.5}")
    found = printed("--config", str(tmp_path / "overlay.yaml"))
    assert list(changes(printed(), found)) == [("trainer.gradient_clip_val", 1.0, 0.5)]


def test_paper_has_no_objective(printed: Printed) -> None:
    text = yaml.safe_load((CONFIGS / "paper.yaml").read_text())
    assert text["model"]["init_args"]["objective"] is None
    assert printed("--config", str(CONFIGS / "paper.yaml"))["model"]["init_args"]["objective"] is None


def test_a_printed_configuration_is_complete(printed: Printed) -> None:
    """Every argument of the model and of each penalty has its value in it, and no other file is named."""
    arguments = printed()["model"]["init_args"]
    assert set(arguments) == set(inspect.signature(PatronusModule).parameters)
    slots = arguments["objective"]["init_args"]
    for name, slot in slots.items():
        assert {"weight", "warmup"} <= slot["init_args"].keys(), name
    assert slots["faithfulness"]["init_args"] == {"weight": 0.01, "warmup": 400}


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_says_little(name: str) -> None:
    assert len((CONFIGS / f"{name}.yaml").read_text().splitlines()) <= 20
