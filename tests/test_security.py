"""Each promise of SECURITY.md."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patronus_pl.cli import main
from patronus_pl.modules.checkpoint import configuration, save_module
from tests.conftest import ModelFactory
from tests.runs import config_args


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that hostile input makes if it runs."""
    return tmp_path / "ran"


@pytest.fixture
def plain(make_model: ModelFactory, tmp_path: Path) -> dict[str, Any]:
    """What a checkpoint holds."""
    model = make_model()
    model.save_hyperparameters(configuration(model), logger=False)
    save_module(model, tmp_path / "plain.ckpt")
    stored: dict[str, Any] = torch.load(tmp_path / "plain.ckpt", weights_only=True)
    return stored


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command, which must end with one line and exit code 2, and return that line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def doors(checkpoint: Path, folder: Path) -> list[list[str]]:
    """Every command that opens a checkpoint or a prior."""
    given, out = str(checkpoint), f"--out={folder / 'out'}"
    engines = [[engine, *config_args("quickstart", folder), f"--ckpt_path={given}"] for engine in ("fit", "test")]
    return [*engines, ["encode", given, out], ["explain", given, out], ["sample", given, "--prior", given, out]]


def test_pickled_code_does_not_run(tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": Planted(marker)}, tmp_path / "evil.ckpt")
    for arguments in doors(tmp_path / "evil.ckpt", tmp_path):
        assert "holds more than tensors and plain values" in refused(arguments, capsys)
    assert not marker.exists()


@pytest.mark.parametrize("part", [{"class_path": "planted_module.X", "init_args": {}}, "planted_module.X"])
def test_modules_that_a_checkpoint_names_are_not_imported(
    plain: dict[str, Any],
    part: Any,
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "planted_module.py").write_text(f"open({str(marker)!r}, 'w')\nclass X: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    plain["hyper_parameters"]["encoder"] = part
    torch.save(plain, tmp_path / "evil.ckpt")
    for arguments in doors(tmp_path / "evil.ckpt", tmp_path):
        assert "names the class planted_module.X" in refused(arguments, capsys)
    assert not marker.exists()
    assert "planted_module" not in sys.modules


@pytest.mark.parametrize(("name", "option"), [("subprocess.Popen", "args"), ("os.system", "command")])
@pytest.mark.parametrize("part", ["encoder", "denoiser", "schedule", "lr"])
def test_callables_that_a_checkpoint_names_are_not_called(
    plain: dict[str, Any],
    name: str,
    option: str,
    part: str,
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain["hyper_parameters"][part] = {"class_path": name, "init_args": {option: f"touch {marker}"}}
    torch.save(plain, tmp_path / "evil.ckpt")
    assert "does not fit PatronusModule" in refused(
        ["encode", str(tmp_path / "evil.ckpt"), f"--out={tmp_path / 'out.npz'}"], capsys
    )
    assert not marker.exists()


def test_activations_of_objects_are_refused(
    plain: dict[str, Any], tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "evil.npz", activations=np.array([[Planted(marker)]], dtype=object))
    given, file = str(tmp_path / "plain.ckpt"), str(tmp_path / "evil.npz")
    line = refused(["sample", given, "--from", file, f"--out={tmp_path / 'out'}"], capsys)
    assert "is no complete .npz of plain arrays" in line
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_ids_never_become_paths(make_model: ModelFactory, tmp_path: Path) -> None:
    model = make_model()
    save_module(model, tmp_path / "plain.ckpt")
    ids = ["../../outside", "/tmp/outside", "<script>", "a"] * 5
    s = np.random.default_rng(0).random((len(ids), model.prototypes.count), dtype=np.float32)
    np.savez(tmp_path / "s.npz", activations=s, ids=np.array(ids))
    out = tmp_path / "deep/run"
    main(["sample", str(tmp_path / "plain.ckpt"), f"--from={tmp_path / 's.npz'}", "--n=2", "--steps=2", f"--out={out}"])
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"plain.ckpt", "s.npz", "00000.png", "00001.png", "grid.png"}


def test_python_tags_in_a_yaml_do_not_run(tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil.yaml").write_text(f"data: !!python/object/apply:os.system ['touch {marker}']\n")
    refused(["fit", "--config", str(tmp_path / "evil.yaml")], capsys)
    refused(["encode", str(tmp_path), "--data", str(tmp_path / "evil.yaml")], capsys)
    assert not marker.exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "[1]", json.dumps({"a": 1}), "\x00"])
def test_evaluations_of_something_else_are_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    assert "is no evaluation" in refused(["compare", str(tmp_path), str(tmp_path)], capsys)
