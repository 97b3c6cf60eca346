from pathlib import Path

import pytest

from patronus_pl.cli import main
from patronus_pl.modules.checkpoint import save_module
from tests.conftest import ModelFactory
from tests.runs import config_args

FACES = '{"class_path": "patronus_pl.data.PlantedFaces", "init_args": {"image_size": 32, "test_size": 8}}'


@pytest.mark.parametrize("command", ["encode", "explain", "audit"])
def test_images_of_another_shape_are_refused_by_every_command(
    command: str, make_model: ModelFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_module(make_model(channels=3, size=16), tmp_path / "model.ckpt")
    with pytest.raises(SystemExit) as stop:
        main([command, str(tmp_path / "model.ckpt"), "--data", FACES, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "the model takes images of shape (3, 16, 16), the data have (3, 32, 32); make" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_one_option_changes_one_key_of_the_data_of_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images of a run were moved: its command names the option, which finds them again."""
    small = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.enable_model_summary=false"]
    main(["fit", *config_args("my_images", tmp_path), *small])
    (tmp_path / "data").rename(tmp_path / "moved")
    encode = ["encode", str(tmp_path / "runs"), "--split", "train", "--out", str(tmp_path / "s.npz")]
    with pytest.raises(SystemExit) as stop:
        main(encode)
    assert stop.value.code == 2
    assert "root" in capsys.readouterr().err
    main([*encode, "--data.init_args.root", str(tmp_path / "moved")])
    assert "activations" in capsys.readouterr().out
