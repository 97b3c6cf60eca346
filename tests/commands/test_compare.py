"""Side by side, or a refusal that names the difference."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from patronus_pl.cli import main
from patronus_pl.commands.compare import differences

IMAGES = {"split": "test", "n": 100, "pixels": "ab12"}
EVALUATION: dict[str, Any] = {
    "schema_version": 1,
    "model": {"class": "PatronusModule", "weights": "00aa", "ema": True},
    "data": {"name": "PlantedFaces", "bias": None, "sizes": {"train": 20000}},
    "made_with": {"versions": {"torch": "2.6"}, "commit": "abc"},
    "latents": {"protocol": {**IMAGES, "folds": 5}, "probe": {"auroc": 0.9876543, "per_attribute": {"hat": 1.0}}},
    "distances": {"protocol": {"reference": IMAGES, "steps": 20, "network": "RandomFeatures"}, "from_real_s": {"f": 2}},
    "prior": {"absent": "no prior was given"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The evaluation with one value replaced."""
    evaluation = copy.deepcopy(EVALUATION)
    *parents, last = path.split(".")
    section = evaluation
    for name in parents:
        section = section[name]
    section[last] = value
    return evaluation


def write(folder: Path, *evaluations: dict[str, Any]) -> list[str]:
    for k, evaluation in enumerate(evaluations):
        (folder / f"{k}.json").write_text(json.dumps(evaluation))
    return [str(folder / f"{k}.json") for k in range(len(evaluations))]


def test_numbers_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = {"protocol": {"steps": 50}, "two_sample_auc": {"prior": 0.51234567}}
    files = write(tmp_path, EVALUATION, changed("latents.probe.auroc", 0.5), changed("prior", prior))
    main(["compare", *files])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows["latents.probe.auroc"] == ["0.9877", "0.5", "0.9877"]
    assert rows["latents.probe.per_attribute.hat"] == ["1", "1", "1"]
    assert rows["distances.from_real_s.f"] == ["2", "2", "2"]
    assert rows["prior.two_sample_auc.prior"] == ["-", "-", "0.5123"]
    assert rows["made_with.commit"] == ["abc", "abc", "abc"]
    assert not any("protocol" in row or "absent" in row for row in rows)


def test_a_folder_stands_for_its_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(EVALUATION))
    main(["compare", str(tmp_path / "run"), *write(tmp_path, EVALUATION)])
    assert "0.9877" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("latents.protocol.folds", 3, "latents.folds: 5 | 3"),
        ("distances.protocol.steps", 1000, "distances.steps: 20 | 1000"),
        ("distances.protocol.network", "InceptionFeatures", "distances.network: RandomFeatures | InceptionFeatures"),
        ("distances.protocol.reference.n", 99, "distances.reference.n: 100 | 99"),
        ("schema_version", 2, "schema_version: 1 | 2"),
        ("latents.protocol.extra", True, "latents.extra: None | True"),
    ],
)
def test_other_protocols_are_refused(
    path: str, value: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compare", *write(tmp_path, EVALUATION, EVALUATION, changed(path, value))])
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert words in output.err
    assert output.out == ""


def test_what_differs_may_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path, EVALUATION, changed("distances.protocol.steps", 1000))
    with pytest.raises(SystemExit):
        main(["compare", *files])
    assert "`--without distances`" in capsys.readouterr().err
    main(["compare", *files, "--without", "distances, prior"])
    rows = capsys.readouterr().out
    assert "latents.probe.auroc" in rows
    assert "distances" not in rows


def test_leaving_out_is_no_remedy_for_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = changed("data.bias", "blond and smiling")
    other["latents"]["protocol"]["pixels"] = "cd34"
    with pytest.raises(SystemExit):
        main(["compare", *write(tmp_path, EVALUATION, other)])
    assert "--without" not in capsys.readouterr().err


def test_only_a_section_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compare", *write(tmp_path, EVALUATION, EVALUATION), "--without", "model"])
    assert stop.value.code == 2
    assert "--without model: " in (output := capsys.readouterr().err)
    assert "it has latents, distances, prior" in output


@pytest.mark.parametrize("path", ["model.ema", "model.weights", "made_with.commit", "data.sizes.train", "prior.absent"])
def test_what_is_measured_and_when_may_differ(path: str) -> None:
    assert differences(EVALUATION, changed(path, "other")) == []


def test_other_pixels_are_explained_by_what_the_data_say(tmp_path: Path) -> None:
    other = changed("data.bias", "blond and smiling")
    other["latents"]["protocol"]["pixels"] = "cd34"
    assert differences(EVALUATION, other) == ["data.bias: None | blond and smiling", "latents.pixels: ab12 | cd34"]


def test_a_section_that_one_lacks_does_not_count() -> None:
    assert differences(EVALUATION, changed("distances", {"absent": "why"})) == []


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is no evaluation"), ("[]", "no schema_version"), ('{"a": 1}', "no schema_version")]
)
def test_other_files_are_refused(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(tmp_path / "other.json"), *write(tmp_path, EVALUATION)])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_one_is_not_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for files in (write(tmp_path, EVALUATION), ["nowhere.json", "nor_here.json"]):
        with pytest.raises(SystemExit) as stop:
            main(["compare", *files])
        assert stop.value.code == 2
    assert "name two or more" in (output := capsys.readouterr().err)
    assert "nowhere.json" in output
