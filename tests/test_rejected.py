"""An option that jsonargparse rejects: one line that names it, what it was and what it may be."""

from pathlib import Path

import pytest

from patronus_pl.cli import main
from patronus_pl.rejected import told

FIT = ["fit", "--config", str(Path(__file__).parent.parent / "configs" / "quickstart.yaml")]
LAYER = "model.init_args.prototypes.init_args"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--trainer.max_steps", "many"], "trainer.max_steps is many, which is not a whole number; `patronus fit"),
        ([f"--{LAYER}.init", "x"], f"{LAYER}.init is x, which is not one of 'patches', 'random'"),
        ([f"--{LAYER}.temperature", "hot"], f"{LAYER}.temperature is hot, which is not a number or null"),
        (["--model.init_args.colour", "3"], "model of class patronus_pl.modules.PatronusModule: Option "),
        (["--model.init_args.skip_width", "0.1"], "since version 0.2 it is model.prediction.skip_width"),
        (["--model.init_args.prediction", "v"], "since version 0.2 it is model.prediction.class_path"),
        (
            ["--model.init_args.masks", "v"],
            "model.init_args.masks is v, which is not a YAML file or the name of a class",
        ),
        (["--model.class_path", "nowhere.Thing"], "model of class nowhere.Thing: No module named 'nowhere'"),
        (["--config", "nowhere.yaml"], "config: File does not exist"),
        (["--colour", "3"], "unrecognized arguments: --colour 3"),
    ],
)
def test_options_of_lightning(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*FIT, *args])
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.err.startswith("patronus: error: ")
    assert words in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["sample", "run", "--n", "many"], "n is many, which is not a whole number; `patronus sample --help`"),
        (["sample", "run", "--precision", "3"], "precision is 3, which is not one of 'auto', '32', 'bf16'"),
        (["explain"], "the following arguments are required: ckpt"),
        (["audit", "run", "--colour", "3"], "unrecognized arguments: --colour 3"),
    ],
)
def test_options_of_our_commands(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert words in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


@pytest.mark.parametrize("account", ["something new", "Subtypes: [int]\nErrors:"])
def test_other_accounts_are_told_whole(account: str) -> None:
    assert told(account) == account
