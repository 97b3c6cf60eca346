import inspect
import os
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.cli import instantiate_module

from patronus_pl.errors import CheckpointError, OutputError
from patronus_pl.modules import PatronusModule
from patronus_pl.modules.checkpoint import configuration, read_checkpoint, read_tensors, save_module
from tests.conftest import ModelFactory, tiny_configuration


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


OTHER_THAN_DEFAULT: dict[str, Any] = {
    "prediction": {
        "class_path": "patronus_pl.diffusion.prediction.Epsilon",
        "init_args": {"timestep_power": 1.5},
    },
    "lr": 0.1,
    "warmup_steps": 7,
    "final_lr": 0.5,
    "seed": 11,
    "encoder": {"init": "normal", "last_relu": False},
    "prototypes": {
        "similarity": "euclidean",
        "temperature": None,
        "epsilon": 1e-3,
        "init": "random",
        "standardise": False,
    },
    "denoiser": {"attention": [False, True], "heads": 2, "groups": 4, "dropout": 0.3, "patch": 2, "head_channels": 4},
    "schedule": {"timesteps": 50, "kind": "cosine", "beta_start": 1e-3, "beta_end": 0.1},
}
SLOTS: dict[str, dict[str, Any]] = {
    "decorrelation": {"weight": 0.5, "warmup": 3, "floor": -0.5, "balance": ["Hat", "Smile"]},
    "kurtosis": {"weight": 0.3, "warmup": 9},
    "sparsity": {"weight": 0.4, "warmup": 1},
    "faithfulness": {"weight": 0.6, "warmup": 2},
    "looking": {"weight": 0.7, "warmup": 4},
    "distinctness": {"weight": 0.1, "warmup": 5, "margin": 0.7},
}


def test_configuration_says_all(make_model: ModelFactory) -> None:
    model = make_model(**OTHER_THAN_DEFAULT, objective=SLOTS)
    found = configuration(model)
    assert set(found) - {"_class_path", "_instantiator"} == set(inspect.signature(PatronusModule).parameters)
    wanted = tiny_configuration(**OTHER_THAN_DEFAULT)
    for name, value in wanted.items():
        if isinstance(value, dict):
            assert {**found[name]["init_args"], **value["init_args"]} == found[name]["init_args"]
        else:
            assert found[name] == value
    assert {name: part["init_args"] for name, part in found["objective"]["init_args"].items()} == SLOTS
    plain = yaml.safe_load(yaml.safe_dump(found))
    again = instantiate_module(PatronusModule, {name: plain[name] for name in (*wanted, "objective")})
    assert configuration(again) == found


@pytest.mark.parametrize("arguments", [{}, {**OTHER_THAN_DEFAULT, "objective": SLOTS}])
def test_saved_and_loaded(make_model: ModelFactory, tmp_path: Path, arguments: dict[str, Any]) -> None:
    model, path = make_model(**arguments).train(), tmp_path / "model.ckpt"
    model.activation_low.fill_(0.25)
    save_module(model, path)
    loaded = PatronusModule.load_from_checkpoint(path)
    assert not loaded.training
    assert configuration(loaded) == configuration(model)
    assert loaded.hparams == model.hparams
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert [file.name for file in tmp_path.iterdir()] == ["model.ckpt"]


def test_arguments_can_be_replaced(tiny_model: PatronusModule, tmp_path: Path) -> None:
    save_module(tiny_model, tmp_path / "model.ckpt")
    assert PatronusModule.load_from_checkpoint(tmp_path / "model.ckpt", lr=0.5).lr == 0.5


def test_lightning_resumes_from_it_for_validation(tiny_model: PatronusModule, tmp_path: Path) -> None:
    save_module(tiny_model, tmp_path / "model.ckpt")
    data = torch.utils.data.DataLoader([{"image": torch.zeros(1, 16, 16)}] * 4, batch_size=2)
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(enable_checkpointing=False, enable_model_summary=False, **options)
    (expected,) = trainer.validate(tiny_model, data, verbose=False)
    other = instantiate_module(PatronusModule, tiny_configuration())
    (found,) = trainer.validate(other, data, ckpt_path=str(tmp_path / "model.ckpt"), weights_only=True, verbose=False)
    assert found == expected


def test_the_old_file_stays_if_writing_fails(
    tiny_model: PatronusModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.ckpt"
    save_module(tiny_model, path)
    before = path.read_bytes()

    def fail(_: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match=r"cannot write '.*model.ckpt' \(No space left on device\); choose"):
        save_module(tiny_model, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.ckpt"]


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_an_unwritable_folder(tiny_model: PatronusModule, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        save_module(tiny_model, tmp_path / folder / "model.ckpt")


def broken(kind: str, path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "start": whole[:10],
        "text": b"hello, this is text",
        "noise": np.random.default_rng(0).bytes(5000),
        "pickle": pickle.dumps({"state_dict": {}}, protocol=2),
    }
    path.write_bytes(contents[kind])


@pytest.mark.parametrize("kind", ["empty", "half", "start", "text", "noise", "pickle"])
def test_a_broken_file(kind: str, tmp_path: Path) -> None:
    broken(kind, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"model.ckpt' is truncated or no checkpoint .*; copy or train it again"):
        PatronusModule.load_from_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.parametrize("zipped", [True, False])
def test_planted_code_does_not_run(zipped: bool, tmp_path: Path) -> None:
    contents = {"state_dict": {"a": torch.zeros(3)}, "hyper_parameters": Planted(tmp_path / "ran")}
    torch.save(contents, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"model.ckpt' holds more than tensors and plain values \(posix.system\)"):
        PatronusModule.load_from_checkpoint(tmp_path / "model.ckpt")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError, match="holds more"):
        read_tensors(tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=False)  # it would have run
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("class_path", ["os.system", "subprocess.Popen", "torch.nn.Linear"])
def test_parts_are_of_their_classes(tiny_model: PatronusModule, tmp_path: Path, class_path: str) -> None:
    arguments = {"command": f"touch {tmp_path / 'ran'}", "args": ["touch", str(tmp_path / "ran")]}
    tiny_model.hparams["encoder"] = {"class_path": class_path, "init_args": arguments}
    save_module(tiny_model, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"does not fit PatronusModule of this version"):
        PatronusModule.load_from_checkpoint(tmp_path / "model.ckpt")
    assert not (tmp_path / "ran").exists()


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint '.*none.ckpt'; `patronus fit` writes them"):
        PatronusModule.load_from_checkpoint(tmp_path / "none.ckpt")


def test_tensors_alone_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "ckpt.tar")
    with pytest.raises(CheckpointError, match=r"no Lightning checkpoint; .* `patronus import-reference`"):
        read_checkpoint(tmp_path / "ckpt.tar")


def test_another_class(tiny_model: PatronusModule, tmp_path: Path) -> None:
    tiny_model.hparams["_class_path"] = "patronus_pl.modules.LatentPrior"
    save_module(tiny_model, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"is a checkpoint of .*LatentPrior, not of PatronusModule"):
        PatronusModule.load_from_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": -1}, "model.seed is -1"),
        ({"image_shape": [3, 16, 16]}, r"image_shape\[0\] is 3"),
        ({"colour": True}, "colour"),
    ],
)
def test_arguments_that_do_not_fit(
    tiny_model: PatronusModule, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    tiny_model.hparams.update(changes)
    save_module(tiny_model, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=rf"does not fit PatronusModule.*(?s:.*){words}"):
        PatronusModule.load_from_checkpoint(tmp_path / "model.ckpt")


def test_weights_of_other_sizes(make_model: ModelFactory, tmp_path: Path) -> None:
    model = make_model()
    model.hparams["prototypes"]["init_args"]["count"] = 4
    model.hparams["denoiser"]["init_args"]["condition_dim"] = 4
    save_module(model, tmp_path / "model.ckpt")
    with pytest.raises(
        CheckpointError, match=r"does not fit PatronusModule(?s:.*)size mismatch for prototypes.vectors"
    ):
        PatronusModule.load_from_checkpoint(tmp_path / "model.ckpt")
