"""The experiment: what is run, what is not run again, and the numbers that come out of audits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patronus_pl.cli import main
from patronus_pl.commands.audit_experiment import audit_experiment, draw_estimates, summarise, text_table
from patronus_pl.errors import InvalidOptionError
from tests.commands.conftest import Leave

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def pair(moved: str, attribute: str, tie: float, verdict: str) -> dict[str, Any]:
    tested = verdict != "one group"
    return {
        "moved": moved,
        "attribute": attribute,
        "tie": tie,
        "phi": tie,
        "p": 0.5 if tested else None,
        "verdict": verdict,
    }


def audit_of(rho: float) -> dict[str, Any]:
    """Black hair and smiles are tied as planted; blond hair follows; red shirts are tied to hats by mistake."""
    call = "in the data" if rho else "independent"
    return {
        "pairs": [
            pair("Black_Hair", "Smiling", rho + 0.02, call),
            pair("Smiling", "Black_Hair", rho - 0.02, call),
            pair("Black_Hair", "Blond_Hair", -0.6, "one group"),
            pair("Blond_Hair", "Smiling", -0.6 * rho, call),
            pair("Wearing_Red", "Wearing_Hat", 0.3, "introduced"),
            pair("Wearing_Hat", "Wearing_Red", 0.01, "independent"),
        ]
    }


@pytest.fixture
def ran(instead: Callable[[Leave], list[list[str]]]) -> list[list[str]]:
    """The commands that were run, in place of running them."""

    def leave(command: str, run: Path) -> None:
        if command == "audit":
            (run / "audit.json").write_text(json.dumps(audit_of(float(run.name.split("_")[1]))))

    return instead(leave)


def test_every_model_is_trained_and_audited_once(ran: list[list[str]], tmp_path: Path) -> None:
    options: dict[str, Any] = {"recipe": str(CONFIG), "out": str(tmp_path), "seeds": 2, "max_steps": 7}
    audit_experiment(rhos=(0.0, 0.5), **options)
    assert [command[0] for command in ran] == ["fit", "audit"] * 4
    assert not any("correlation" in part for part in ran[0])
    assert '--data.init_args.correlation={"Black_Hair,Smiling": 0.5}' in ran[4]
    assert "--seed_everything=1" in ran[6]
    assert "--trainer.max_steps=7" in ran[6]
    judge_data = json.loads(ran[5][ran[5].index("--judge_data") + 1])
    assert "correlation" not in judge_data["init_args"]
    (tmp_path / "rho_0.5_seed_1" / "audit.json").unlink()
    audit_experiment(rhos=(0.0, 0.5, 1.0), **options)
    assert [command[0] for command in ran[8:]] == ["audit", "fit", "audit", "fit", "audit"]
    result = json.loads((tmp_path / "experiment.json").read_text())
    assert result["spearman"] == pytest.approx(1)
    assert [row["false_share"] for row in result["by_rho"]] == [0.5, 0.5, 0.5]
    assert [row["power"] for row in result["by_rho"]] == [0, 1, 1]
    assert [row["detection_auroc"] for row in result["by_rho"]] == [None, 1, 1]
    assert result["by_rho"][1]["estimates"] == pytest.approx([0.52, 0.52])
    assert result["by_rho"][1]["reverse"] == pytest.approx([0.48, 0.48])
    assert (tmp_path / "experiment.png").read_bytes().startswith(b"\x89PNG")


def test_other_data_are_biased_by_leaving_images_out(ran: list[list[str]], tmp_path: Path) -> None:
    config = CONFIG.with_name("celeba.yaml")
    options: dict[str, Any] = {"recipe": str(config), "out": str(tmp_path), "seeds": 1, "rhos": (-1.0,)}
    audit_experiment(pair="Black_Hair|Blond_Hair|Brown_Hair,Smiling", judge="cnn", **options)
    bias = {"pairs": {"Black_Hair|Blond_Hair|Brown_Hair,Smiling": -1.0}}
    assert f"--data.init_args.bias={json.dumps(bias)}" in ran[0]
    assert "--judge=cnn" in ran[1]


def test_detection_is_the_share_of_pairs_in_the_right_order() -> None:
    """Planted 0.4 and nothing (not tested), others 0.1, 0.2, 0.5: (2 of 3 + 0 of 3) / 2."""
    nothing = {
        "rho": 1.0,
        "estimate": None,
        "reverse": None,
        "planted": [],
        "others": [0.5],
        "found": [],
        "false": 1,
        "tested": 1,
    }
    some = {
        "rho": 1.0,
        "estimate": 0.4,
        "reverse": None,
        "planted": [0.4],
        "others": [0.1, 0.2],
        "found": [True],
        "false": 0,
        "tested": 2,
    }
    (row,) = summarise([nothing, some])["by_rho"]
    assert row["detection_auroc"] == pytest.approx(1 / 3)
    assert row["power"] == pytest.approx(0.5)
    assert row["false_share"] == pytest.approx(1 / 3)
    assert row["estimates"] == [0, 0.4]
    assert summarise([{"rho": rho, **nothing} for rho in (0.0, 1.0)])["spearman"] is None
    assert "1.00      0.20     0.00   0.333" in text_table({"by_rho": [row], "spearman": None})
    assert draw_estimates([row]) == draw_estimates([row])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "nowhere.yaml"}, "'nowhere.yaml': no such file"),
        ({"pair": "Smiling"}, "give 'A,B'"),
        ({"seeds": 0}, "at least one each"),
    ],
)
def test_impossible_experiments_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        audit_experiment(**{"recipe": str(CONFIG), "out": str(tmp_path), **options})


def test_the_command_line_takes_another_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option called --config would be the parser's own, and the recipe silently the default."""
    with pytest.raises(SystemExit) as stop:
        main(["audit-experiment", "--recipe", "nowhere.yaml", "--out", str(tmp_path)])
    assert stop.value.code != 0
    assert "'nowhere.yaml': no such file" in capsys.readouterr().err
