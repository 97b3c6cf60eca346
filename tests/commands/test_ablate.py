"""The ablation: which models are trained, that none is trained twice, and the table of what they are worth."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from patronus_pl.cli import main
from patronus_pl.commands import experiment
from patronus_pl.commands.ablate import PAPER_START, Variant, ablate, markdown_table, read_numbers, sizes, variants
from patronus_pl.commands.experiment import read_config
from patronus_pl.errors import InvalidOptionError
from tests.commands.conftest import Leave
from tests.runs import CONFIGS, SMALL

CONFIG = str(CONFIGS / "quickstart.yaml")


def evaluation_of(local: float, dead: int) -> dict[str, Any]:
    """What `patronus test` writes of faces, as far as it is read."""
    return {
        "schema_version": 1,
        "use": {"ratio": [50.0, 60.0, 70.0]},
        "prototypes": {"dead": dead, "mean_abs_correlation": 0.25, "effective_rank": 3.5, "nearest_cosine": None},
        "latents": {
            "probe": {"auroc": 0.7, "local": local, "global": 0.9},
            "classes": {"absent": "no classes"},
            "tad": {"tad": 2.5, "captured": 6},
            "dci": {"absent": "too few"},
        },
        "reconstruction": {"random": {"mse": 0.01, "psnr": 26.0}},
        "distances": {"from_real_s": {"Frechet distance (Any)": 0.5, "kernel_distance": 0.1}},
    }


@pytest.fixture
def ran(instead: Callable[[Leave], list[list[str]]]) -> list[list[str]]:
    """The commands that were run, in place of running them. Seed k has a local probe of 0.8 + 0.1 k."""

    def leave(command: str, run: Path) -> None:
        if command == "fit":
            (run / "fit/version_0/checkpoints").mkdir(parents=True)
            (run / "fit/version_0/checkpoints/last.ckpt").touch()
        else:
            seed = int(run.name[-1])
            (run / "evaluation.json").write_text(json.dumps(evaluation_of(0.8 + 0.1 * seed, seed)))

    return instead(leave)


def test_every_model_is_trained_and_evaluated_once(ran: list[list[str]], tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": str(tmp_path), "dims": "", "distinctness": "", "seeds": 2, "max_steps": 7}
    ablate(CONFIG, counts="8", test_options=("--evaluation.n=9",), **options)
    assert [command[0] for command in ran] == ["fit", "test"] * 4
    assert ran[6][:4] == ["fit", "--config", CONFIG, "--seed_everything=1"]
    assert {"--model.init_args.seed=1", "--trainer.max_steps=7"} <= set(ran[6])
    assert {f"--evaluation.out={tmp_path / 'm8_D128_seed_1'}", "--evaluation.n=9"} <= set(ran[7])
    shutil.rmtree(tmp_path / "m8_D128_seed_0")
    ablate(CONFIG, counts="8,4", test_options=("--evaluation.n=9",), **options)
    assert [command[0] for command in ran[8:]] == ["fit", "test"] * 3
    found = json.loads((tmp_path / "ablation.json").read_text())
    assert [variant["m"] for variant in found["variants"]] == [16, 8, 4]
    assert found["variants"][1]["runs"][1]["dead"] == 1
    assert "| m=8 D=128  | 0.7 ± 0 | 0.85 ± 0.071 | 0.9 ± 0 " in (tmp_path / "ablation.md").read_text()
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("quickstart", (16, 128, [3, 64, 128])),
        ("fashion_mnist", (30, 128, [1, 32, 64, 64, 128])),
        ("celeba", (100, 128, [3, 32, 64, 64, 128])),
    ],
)
def test_the_sizes_of_a_recipe(name: str, expected: tuple[int, int, list[int]]) -> None:
    recipe = str(CONFIGS / f"{name}.yaml")
    assert sizes(read_config(recipe)["model"], recipe) == expected


def test_one_axis_at_a_time_or_all() -> None:
    sizes = variants((16, 128), [8, 16], [32, 128], [], grid=False)
    assert [kind.label for kind in sizes] == ["m=16 D=128", "m=8 D=128", "m=16 D=32"]
    crossed = variants((30, 128), [8, 16], [32, 64], [], grid=True)
    assert {(kind.m, kind.dim) for kind in crossed} == {(30, 128), (8, 32), (8, 64), (16, 32), (16, 64)}
    assert variants((30, 128), [8], [], [], grid=True) == [Variant(30, 128), Variant(8, 128)]
    losses = variants((16, 128), [], [], [0.2, 0.5], grid=False)
    assert [(kind.margin, kind.paper) for kind in losses] == [
        (0, False),
        (0.2, False),
        (0.5, False),
        (0, True),
        (0.2, True),
        (0.5, True),
    ]
    assert losses[4].folder == "m16_D128_paper_delta_0.2"
    assert losses[4].label == "m=16 D=128 paper δ=0.2"
    assert len({kind.folder for kind in losses}) == 6


def test_the_papers_start_is_that_of_its_config() -> None:
    paper = yaml.safe_load((CONFIGS / "paper.yaml").read_text())["model"]["init_args"]
    for part in ("encoder", "prototypes"):
        assert PAPER_START[part] == paper[part]
    assert paper["objective"] is None  # here, the distinctness loss may stay
    assert {slot["weight"] for slot in PAPER_START["objective"].values()} == {0.0}


@pytest.mark.parametrize("paper", [False, True])
def test_options_make_the_model(paper: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the command line takes them: sizes that belong together, the loss, the start."""
    options = Variant(8, 32, 0.5, paper).options([3, 32, 64, 64, 128], weight=2.0)
    with pytest.raises(SystemExit):
        main(["fit", "--config", CONFIG, *options, "--print_config"])
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    parts = {name: model[name]["init_args"] for name in ("encoder", "prototypes", "denoiser")}
    assert (parts["prototypes"]["count"], parts["denoiser"]["condition_dim"]) == (8, 8)
    assert (parts["prototypes"]["dim"], parts["encoder"]["channels"]) == (32, [3, 32, 64, 64, 32])
    penalties = {name: slot["init_args"] for name, slot in model["objective"]["init_args"].items()}
    assert (penalties["distinctness"]["weight"], penalties["distinctness"]["margin"]) == (2.0, 0.5)
    start = parts["prototypes"]["init"], parts["prototypes"]["standardise"]
    assert start == (("random", False) if paper else ("patches", True))
    found = parts["prototypes"]["temperature"], penalties["kurtosis"]["weight"]
    assert found == ((None, 0.0) if paper else (10.0, 0.01))
    assert (model["prediction"]["class_path"], model["lr"]) == ("patronus_pl.diffusion.Velocity", 1.2e-3)


def test_the_table_leaves_out_what_no_model_has(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation_of(0.8, 2)))
    numbers = read_numbers(tmp_path)
    assert (numbers["loss ratio"], numbers["Fréchet"], numbers["accuracy"]) == (60.0, 0.5, None)
    other = {**numbers, "MSE": None}
    header, _, first, second = markdown_table(
        [{"label": "a", "runs": [numbers]}, {"label": "b", "runs": [other]}]
    ).splitlines()
    names = [cell.strip() for cell in header.strip("|").split("|")]
    assert "accuracy" not in names
    assert "nearest cos" not in names
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (first, second)]
    assert [row[names.index("MSE")] for row in cells] == ["0.01", "–"]
    assert [row[names.index("dead")] for row in cells] == ["2", "2"]


def test_a_model_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained for two steps and evaluated, in this process; each number of the table is in the evaluation."""
    monkeypatch.setattr(experiment, "patronus", lambda arguments, _log, _resume: main(list(arguments)))
    little = [*SMALL, "--model.init_args.denoiser.init_args.base=8", "--trainer.enable_model_summary=false"]
    little += [f"--data.init_args.{split}_size={n}" for split, n in (("train", 64), ("val", 4), ("test", 12))]
    test = [f"--evaluation.{name}={value}" for name, value in {"n": 12, "inverted": 1, "sampling.steps": 1}.items()]
    args = ["--counts=", "--dims=", "--distinctness=", "--max-steps=2", f"--out={tmp_path}"]
    main(["ablate", CONFIG, *args, "--options", json.dumps(little), "--test-options", json.dumps(test)])
    run = tmp_path / "m16_D128_seed_0"
    evaluation = json.loads((run / "evaluation.json").read_text())
    (variant,) = json.loads((tmp_path / "ablation.json").read_text())["variants"]
    found = variant["runs"][0]
    assert evaluation["model"]["step"] == 2
    assert found["PSNR"] == evaluation["reconstruction"]["random"]["psnr"]
    assert found["Fréchet"] == evaluation["distances"]["from_real_s"]["Frechet distance (RandomFeatures)"]
    assert found["loss ratio"] == evaluation["use"]["ratio"][evaluation["use"]["protocol"]["t"].index(400)]
    assert 1 <= found["eff. rank"] <= 16
    assert all(np.isfinite(found[name]) for name in found if name != "accuracy" and not name.startswith("DCI"))
    assert list((tmp_path / "features").iterdir())
    assert len(list((run / "fit").iterdir())) == 1  # evaluating starts no run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "nowhere.yaml"}, "'nowhere.yaml': no such file"),
        ({"recipe": str(CONFIGS / "planted_faces_prior.yaml")}, "does not say prototypes.count and encoder.channels"),
        ({"counts": "8,few"}, "--counts '8,few': give positive numbers"),
        ({"dims": "0"}, "--dims '0': give positive numbers"),
        ({"distinctness": "nan"}, "--distinctness 'nan': give positive numbers"),
        ({"distinctness": "1.5"}, "a margin is at most 1"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"weight": -1.0}, "--weight -1.0"),
    ],
)
def test_impossible_ablations_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        ablate(**{"recipe": CONFIG, "out": str(tmp_path), **options})
