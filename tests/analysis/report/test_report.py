"""The report: what it writes, what its numbers say, and that it never leaves half of itself."""

import base64
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kendalltau
from sklearn.metrics import roc_auc_score

from patronus_pl.analysis.explain.recovery import spread_timesteps
from patronus_pl.analysis.pages import page
from patronus_pl.analysis.protocol import plain
from patronus_pl.analysis.report import atlas, report
from patronus_pl.analysis.report import findings as module
from patronus_pl.analysis.report.findings import Findings, find, most_room
from patronus_pl.analysis.report.report import explain
from patronus_pl.analysis.subject import Subject
from patronus_pl.errors import InvalidOptionError, OutputError
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from tests.analysis.subjects import FEW, LITTLE, faces, masked_model, tiny_model, unlabelled, with_ranges


@pytest.fixture(scope="module")
def subject() -> Subject:
    return faces()


@pytest.fixture(scope="module")
def model(subject: Subject) -> PatronusModule:
    return with_ranges(tiny_model(count=4), subject)


@pytest.fixture(scope="module")
def findings(model: PatronusModule, subject: Subject) -> Findings:
    return find(model, subject, LITTLE, FEW)


@pytest.fixture(scope="module")
def masked(subject: Subject) -> PatronusModule:
    return with_ranges(masked_model(count=4), subject)


@pytest.fixture(scope="module")
def told(masked: PatronusModule, subject: Subject) -> Findings:
    """What is found of a model with masks."""
    return find(masked, subject, LITTLE, FEW)


def page_of(model: PatronusModule, findings: Findings, subject: Subject, everything: bool = False) -> str:
    """The page, with single spaces."""
    numbers = report.report_numbers(model, findings, subject, LITTLE, FEW, "")
    shown = atlas.shown_prototypes(findings, everything)
    return " ".join(atlas.render(model, findings, subject, numbers, shown).split())


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        return [leaf for entry in (value.values() if isinstance(value, dict) else value) for leaf in leaves(entry)]
    return [value]


def external(html: str) -> list[str]:
    """Addresses that a browser would fetch."""
    found = re.findall(r"""(?:src|href|action|data|srcset|poster)\s*=\s*["']?([^"'\s>]+)""", html)
    found += re.findall(r"""url\(["']?([^"')]+)""", html)
    return [address for address in found if not address.startswith(("data:", "#"))]


# ---- what is written -----------------------------------------------------------------------------------------------


def test_explain_writes_a_page_its_numbers_and_its_pictures(
    model: PatronusModule, subject: Subject, tmp_path: Path
) -> None:
    numbers = explain(model, subject, str(tmp_path / "a" / "b"), "runs/x/last.ckpt", LITTLE, FEW)
    out = tmp_path / "a" / "b"
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "report_images"]
    assert json.loads((out / "report.json").read_text()) == numbers
    html = (out / "report.html").read_text()
    assert len(html) < 5_000_000
    assert external(html) == []
    assert all(f'<details class="proto" id="p{j}"' in html for j in range(4))
    names = {path.name for path in (out / "report_images").iterdir()}
    kinds = {"headline", "reconstructions", "census", "leakage", "emergence"}
    each = {f"prototype_{j:03d}_{what}" for j in range(4) for what in ("what", "patches", "edits")}
    assert names == {f"{name}.png" for name in kinds | each}
    for path in (out / "report_images").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_numbers_are_finite_and_say_how_they_were_made(
    model: PatronusModule, subject: Subject, findings: Findings
) -> None:
    numbers = report.report_numbers(model, findings, subject, LITTLE, FEW, "/somewhere/secret/last.ckpt")
    assert all(math.isfinite(leaf) for leaf in leaves(numbers) if isinstance(leaf, float))
    assert numbers["schema_version"] == 2
    protocol = numbers["protocol"]
    assert protocol["checkpoint"] == "last.ckpt"
    assert protocol["data"]["name"] == "PlantedFaces"
    assert (protocol["images"], protocol["steps"], protocol["sampler"], protocol["seed"]) == (40, 2, "dpm++", 0)
    assert torch.__version__.startswith(protocol["versions"]["torch"])
    assert [p["index"] for p in numbers["prototypes"]] == [0, 1, 2, 3]
    assert sorted(numbers["order"]) == [0, 1, 2, 3]


def test_numbers_repeat(model: PatronusModule, subject: Subject, findings: Findings) -> None:
    again = find(model, subject, LITTLE, FEW)
    first, second = (report.report_numbers(model, f, subject, LITTLE, FEW, "") for f in (findings, again))
    assert first == second


def test_attributes_are_read_as_scikit_learn_reads_them(
    model: PatronusModule, subject: Subject, findings: Findings
) -> None:
    numbers = report.report_numbers(model, findings, subject, LITTLE, FEW, "")
    with torch.inference_mode():
        s = model.encode(subject.first(len(subject.images))).numpy()
    for a, row in enumerate(numbers["attributes"]):
        y = subject.attributes[:, a]
        expected = np.array([roc_auc_score(y, s[:, j]) for j in range(4)])
        either = np.maximum(expected, 1 - expected)
        assert row["auroc"] == pytest.approx(either.max(), abs=1e-6)
        assert row["gap"] == pytest.approx(either.max() - np.sort(either)[-2], abs=1e-6)
        assert row["sign"] == (1 if expected[row["prototype"]] >= 0.5 else -1)
        assert row["share"] == pytest.approx(y.mean())


def test_overview_agrees_with_numpy(model: PatronusModule, subject: Subject, findings: Findings) -> None:
    overview = report.report_numbers(model, findings, subject, LITTLE, FEW, "")["overview"]
    x = subject.images / 127.5 - 1
    assert overview["reconstruction"]["mse_mean_image"] == pytest.approx(x.var(axis=0).mean(), rel=1e-5)
    correlation = np.abs(np.corrcoef(findings.activations.numpy().T))
    assert overview["mean_abs_correlation"] == pytest.approx((correlation.sum() - 4) / 12, abs=1e-5)


def test_top_patches_are_distinct_images_by_name(model: PatronusModule, subject: Subject, findings: Findings) -> None:
    for prototype in report.report_numbers(model, findings, subject, LITTLE, FEW, "")["prototypes"]:
        names = [patch["id"] for patch in prototype["top"]]
        assert len(set(names)) == len(names) == LITTLE.patches
        assert set(names) <= set(subject.ids)


def test_the_most_legible_prototypes_of_different_attributes_come_first(findings: Findings) -> None:
    faith, reading = findings.faithfulness, findings.reading
    leaks = torch.tensor([0.0, 0.1, 0.2, 0.0])[:, None].expand(4, 4)
    moved = replace(faith, slope=torch.tensor([0.9, 0.8, 0.5, torch.nan]), leakage=leaks)
    read = replace(
        reading,
        attribute=torch.tensor([2, 2, 5, 7]),
        attribute_auroc=torch.tensor([1.0, 1.0, 0.75, 1.0]),
    )
    ranked = replace(findings, faithfulness=moved, reading=read)
    assert ranked.legibility.tolist() == pytest.approx([0.9, 0.72, 0.2, 0.0])
    assert ranked.by_legibility() == [0, 2, 3, 1]


def test_the_untrained_null_is_of_this_architecture_and_knows_nothing(
    model: PatronusModule, subject: Subject, findings: Findings
) -> None:
    overview = report.report_numbers(model, findings, subject, LITTLE, FEW, "")["overview"]
    null, ours = overview["untrained"], overview["faithfulness"]
    names = {"slope", "rank_correlation", "leakage_mean", "inside_box", "box_share", "round_trip_psnr"}
    assert names <= null.keys() & ours.keys()
    assert (null["prototypes"], null["images"]) == (4, 3)
    assert findings.untrained.slope.abs().max() < 0.1
    html = page_of(model, findings, subject)
    for name in ("slope", "leakage_mean"):
        assert f"untrained {page.number(null[name])}<" in html


def test_pointing_stands_beside_its_base_rate(model: PatronusModule, subject: Subject, findings: Findings) -> None:
    numbers = report.report_numbers(model, findings, subject, LITTLE, FEW, "")
    rates = [row["pointing"]["base_rate"] for row in numbers["attributes"] if row["pointing"]["base_rate"] is not None]
    assert len(rates) >= 4
    assert numbers["overview"]["pointing_base_rate"] == pytest.approx(np.mean(rates))
    html = page_of(model, findings, subject)
    seen = [row["seeing"]["base_rate"] for row in numbers["attributes"] if row["seeing"]["base_rate"] is not None]
    assert len(seen) == len(rates)
    assert all(box > centre for box, centre in zip(seen, rates, strict=True))
    assert all(f"chance {page.number(100 * rate, 0)} %" in html for rate in rates + seen)
    assert f"a patch drawn at random would in {page.number(100 * np.mean(rates), 0)} %" in html


def test_emergence_is_timed_where_every_prototype_has_room_to_rise() -> None:
    s = torch.tensor([[1.0, 1.0, 1.0], [0.2, 1.0, 1.0], [0.0, 0.8, 1.0], [1.0, 0.1, 0.9], [0.9, 0.9, 0.0]])
    low, high = torch.zeros(3), torch.ones(3)
    assert sorted(most_room(s, low, high, 3)) == [2, 3, 4]
    assert sorted(most_room(s, low, high, 9)) == [0, 1, 2, 3, 4]


# ---- when ------------------------------------------------------------------------------------------------------------


def decided(told: Findings, t50: list[float], size: list[float], slope: Sequence[float] = (0.9,) * 4) -> Findings:
    """Findings in which half of each prototype is known at given log-SNR, and edits have given sizes and slopes."""
    assert told.recovery is not None
    passed = torch.tensor(t50)[:, None] + torch.tensor([-1.0, 0.0, 1.0])
    return replace(
        told,
        recovery=replace(told.recovery, passed=passed, low=passed - 0.5, high=passed + 0.5),
        faithfulness=replace(told.faithfulness, size=torch.tensor(size), slope=torch.tensor(slope)),
    )


def test_times_are_given_in_log_snr_and_in_timesteps(masked: PatronusModule, subject: Subject, told: Findings) -> None:
    made = decided(told, [-4.0, -1.0, 0.0, torch.nan], [4.0, 3.0, 2.0, 1.0])
    numbers = report.report_numbers(masked, made, subject, LITTLE, FEW, "")
    log_snr = masked.schedule.snr(torch.arange(1000)).log().numpy()
    for j, t50 in enumerate([-4.0, -1.0, 0.0]):
        when = numbers["prototypes"][j]["when"]
        assert when["log_snr"]["t50"] == t50
        assert when["log_snr"]["low"] == [t50 - 1.5, t50 - 0.5, t50 + 0.5]
        t, low, high = when["t"]["t50"], when["t"]["low"], when["t"]["high"]
        assert np.interp(t, np.arange(1000), log_snr) == pytest.approx(t50, abs=1e-3)
        assert all(a < b for a, b in zip(low, high, strict=True))
        assert np.interp(low[1], np.arange(1000), log_snr) == pytest.approx(t50 + 0.5, abs=1e-3)
    assert numbers["prototypes"][3]["when"]["t"]["t50"] is None
    assert len(numbers["prototypes"][0]["when"]["curve"]) == len(numbers["overview"]["when"]["t"])
    assert 0 <= numbers["prototypes"][0]["when"]["redundancy"] <= 1


def test_large_edits_that_are_decided_early_are_coarse_before_fine(
    masked: PatronusModule, subject: Subject, told: Findings
) -> None:
    made = decided(told, [-4.0, -1.0, 0.0, -9.0], [4.0, 2.0, 3.0, 0.0], [0.9, 0.9, 0.9, 0.05])
    found = report.report_numbers(masked, made, subject, LITTLE, FEW, "")["overview"]["when"]["coarse_before_fine"]
    # The fourth is unused and not counted; of the other three pairs two are in order.
    assert found["tau"] == pytest.approx(kendalltau([4, 1, 0], [4, 2, 3]).statistic)
    assert found["prototypes"] == 3
    assert found["low"] <= found["tau"] <= found["high"]
    assert atlas.earliest_first(made, [2, 1, 0]) == [0, 1, 2]


def test_the_page_of_a_model_with_masks_begins_with_what_noisy_images_tell(
    masked: PatronusModule, subject: Subject, tmp_path: Path
) -> None:
    numbers = explain(masked, subject, str(tmp_path), effort=LITTLE, sampling=FEW, everything=True)
    html = " ".join((tmp_path / "report.html").read_text().split())
    assert "When each prototype is decided" in html
    assert html.count("The paper's curve") == 1 + 4  # behind a fold: of all prototypes, and on each card
    assert html.index("How much of it the noisy image tells") < html.index("Share of the edit that shows")
    assert (tmp_path / "report_images" / "recovery.png").read_bytes().startswith(b"\x89PNG")
    for prototype in numbers["prototypes"]:
        assert f"Redundancy {page.number(100 * prototype['when']['redundancy'], 0)} %" in html


def test_a_model_without_masks_shows_the_curve_of_the_paper_and_says_why(
    model: PatronusModule, subject: Subject, findings: Findings
) -> None:
    numbers = report.report_numbers(model, findings, subject, LITTLE, FEW, "")
    assert numbers["overview"]["when"] is None
    assert {p["when"] for p in numbers["prototypes"]} == {None}
    html = page_of(model, findings, subject)
    assert "This model was trained without masks" in html
    assert "Share of the edit that shows" in html
    assert "The paper's curve" not in html


def test_too_few_images_tell_no_times(masked: PatronusModule, subject: Subject) -> None:
    few = replace(LITTLE, recovered=4)
    found = find(masked, subject, few, FEW)
    assert found.recovery is None
    assert "takes at least 8 images" in page_of(masked, found, subject)


# ---- guidance --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guided(model: PatronusModule, subject: Subject) -> Findings:
    """Findings of an untrained model, whose edits fall so short that they would count as unused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "UNUSED", -1.0)
        return find(model, subject, LITTLE, FEW)


def test_edits_are_shown_under_the_weight_at_which_they_arrive(
    model: PatronusModule, subject: Subject, guided: Findings
) -> None:
    assert guided.guided is not None
    which = guided.guided.prototypes.tolist()
    assert which == torch.nonzero(guided.guidance > 1)[:, 0].tolist() != []
    numbers = report.report_numbers(model, guided, subject, LITTLE, FEW, "")
    html = page_of(model, guided, subject)
    for j, entry in enumerate(numbers["prototypes"]):
        assert entry["guidance"] == pytest.approx(float(guided.guidance[j]))
        assert (entry["guided"] is None) == (j not in which)
        if j in which:
            k = which.index(j)
            assert torch.equal(guided.edits(j), as_floats(guided.guided.pictures[k]))
            assert entry["guided"]["slope"] == pytest.approx(float(guided.guided.slope[k]))
            assert f"under guidance of weight {page.number(entry['guidance'], 1)}" in html
    slopes = [p["guided"]["slope"] if p["guided"] else p["slope"] for p in numbers["prototypes"]]
    assert numbers["overview"]["faithfulness"]["guided"]["slope"] == pytest.approx(np.median(slopes))
    assert "slope under guidance" in html


def test_without_need_of_guidance_the_page_does_not_speak_of_it(
    model: PatronusModule, subject: Subject, findings: Findings
) -> None:
    assert findings.guided is None
    numbers = report.report_numbers(model, findings, subject, LITTLE, FEW, "")
    faith = numbers["overview"]["faithfulness"]
    assert faith["guided"] == {"slope": faith["slope"], "leakage_mean": faith["leakage_mean"], "weight": 1.0}
    assert "slope under guidance" not in page_of(model, findings, subject)


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_dead_and_unused_prototypes_have_no_card_unless_asked_for(
    model: PatronusModule, subject: Subject, findings: Findings
) -> None:
    made = replace(
        findings,
        census=replace(findings.census, dead=torch.tensor([True, False, False, False])),
        faithfulness=replace(findings.faithfulness, slope=torch.tensor([0.9, 0.02, 0.5, 0.7])),
    )
    numbers = report.report_numbers(model, made, subject, LITTLE, FEW, "")
    assert numbers["overview"]["worth_keeping"] == 2
    assert [p["worth_keeping"] for p in numbers["prototypes"]] == [False, False, True, True]
    html, whole = page_of(model, made, subject), page_of(model, made, subject, everything=True)
    assert re.findall(r'class="proto" id="p(\d)"', html) == [str(j) for j in numbers["order"] if j in (2, 3)]
    assert sorted(re.findall(r'class="proto" id="p(\d)"', whole)) == ["0", "1", "2", "3"]
    assert "<dt>2 of 4</dt> <dd>prototypes are worth keeping" in html
    assert "--all true" in html
    assert "--all true" not in whole
    assert set(re.findall(r'href="#p(\d)"', html)) <= {"2", "3"}


def test_if_none_is_worth_keeping_all_are_shown(findings: Findings) -> None:
    none = replace(findings, faithfulness=replace(findings.faithfulness, slope=torch.zeros(4)))
    assert sorted(atlas.shown_prototypes(none)) == [0, 1, 2, 3]


def test_images_that_do_not_come_back_are_flagged_by_name(
    model: PatronusModule, subject: Subject, findings: Findings
) -> None:
    poor = replace(findings.faithfulness, flagged=torch.tensor([False, True, False]))
    made = replace(findings, faithfulness=poor)
    numbers = report.report_numbers(model, made, subject, LITTLE, FEW, "")
    assert numbers["overview"]["faithfulness"]["flagged_ids"] == [subject.ids[1]]
    html = page_of(model, made, subject)
    assert "1 of 3 came back with less than 25 dB" in html
    assert f"mistrust their edits: {subject.ids[1]}." in html


def test_the_census_names_them(model: PatronusModule, subject: Subject, findings: Findings) -> None:
    found = replace(
        findings.census,
        dead=torch.tensor([True, False, False, False]),
        duplicates=[(1, 3)],
        is_global=torch.tensor([False, False, True, False]),
    )
    moved = replace(findings.faithfulness, slope=torch.tensor([0.9, 0.02, 0.5, 0.7]))
    made = replace(findings, census=found, faithfulness=moved)
    numbers = report.report_numbers(model, made, subject, LITTLE, FEW, "")
    overview = numbers["overview"]
    assert overview["unused_prototypes"] == [1]
    assert (overview["dead_prototypes"], overview["global_prototypes"]) == ([0], [2])
    assert overview["duplicate_pairs"] == [[1, 3]]
    html = page_of(model, made, subject, everything=True)
    assert 'hardly ever change: <a href="#p0">0</a>.' in html
    assert 'moving them changes nothing: <a href="#p1">1</a>.' in html
    assert 'say the same: <a href="#p1">1</a> and <a href="#p3">3</a>.' in html


def test_a_model_without_ranges_is_given_those_of_the_images(subject: Subject) -> None:
    fresh = tiny_model(count=4)
    found = find(fresh, subject, LITTLE, FEW)
    s = found.activations.numpy()
    np.testing.assert_allclose(fresh.activation_low.numpy(), np.quantile(s, 0.02, axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.what.requested.numpy(), np.quantile(s, 0.98, axis=0), rtol=1e-4)


@pytest.mark.parametrize("masks", [False, True])
def test_the_progress_bar_knows_its_end(subject: Subject, capsys: pytest.CaptureFixture[str], masks: bool) -> None:
    model = with_ranges(masked_model(count=4) if masks else tiny_model(count=4), subject)
    seen = 0

    def count(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        nonlocal seen
        seen += len(inputs[0])

    model.denoiser.register_forward_hook(count)
    find(model, subject, LITTLE, FEW)
    levels = len(spread_timesteps(model.schedule, LITTLE.noise_levels)) if masks else 0
    assert seen == LITTLE.evaluations(4, len(subject.images), FEW.steps, levels)
    assert "edits" in capsys.readouterr().err


# ---- unusual models and data ---------------------------------------------------------------------------------------


def test_grey_images_without_attributes(tmp_path: Path) -> None:
    subject = unlabelled()
    numbers = explain(
        with_ranges(tiny_model(count=3, channels=1), subject), subject, str(tmp_path), effort=LITTLE, sampling=FEW
    )
    assert numbers["attributes"] == []
    assert numbers["overview"]["probe_auroc"] is None
    html = (tmp_path / "report.html").read_text()
    assert "16 × 16 pixels, grey" in " ".join(html.split())
    assert 'id="attributes"' not in html


def test_a_single_prototype_that_never_changes(tmp_path: Path) -> None:
    subject = unlabelled(count=3)
    model = tiny_model(count=1, channels=1)
    model.activation_low.fill_(1.0)
    model.activation_high.fill_(1.0)
    numbers = explain(model, subject, str(tmp_path), effort=LITTLE, sampling=FEW)
    assert numbers["prototypes"][0]["slope"] is None
    assert numbers["prototypes"][0]["leakage"] == [None]
    assert "no range to move in" in (tmp_path / "report.html").read_text()


def test_names_from_outside_are_escaped(model: PatronusModule, subject: Subject, findings: Findings) -> None:
    evil = "<script>alert('x')</script>"
    names = (evil, *subject.attribute_names[1:])
    hostile = replace(subject, attribute_names=names, description={"name": evil, evil: evil})
    read = replace(findings, reading=replace(findings.reading, names=names))
    numbers = report.report_numbers(model, read, hostile, LITTLE, FEW, evil)
    html = atlas.render(model, read, hostile, numbers, [0, 1, 2, 3])
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_one_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"1 image.*give at least 2"):
        explain(tiny_model(count=3, channels=1), unlabelled(count=1), str(tmp_path), effort=LITTLE, sampling=FEW)


# ---- safety ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_leaves_what_was_there(
    model: PatronusModule, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report.html").write_text("the last one")
    (tmp_path / "last.ckpt").write_text("weights")

    def interrupt(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "render", interrupt)
    with pytest.raises(KeyboardInterrupt):
        explain(model, subject, str(tmp_path), effort=LITTLE, sampling=FEW)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "report.html": "the last one",
        "last.ckpt": "weights",
    }


def test_a_second_report_replaces_the_first_and_nothing_else(
    model: PatronusModule, subject: Subject, tmp_path: Path
) -> None:
    (tmp_path / "report_images").mkdir()
    (tmp_path / "report_images" / "prototype_099_edits.png").write_text("stale")
    (tmp_path / "last.ckpt").write_text("weights")
    explain(model, subject, str(tmp_path), effort=LITTLE, sampling=FEW)
    assert not (tmp_path / "report_images" / "prototype_099_edits.png").exists()
    assert (tmp_path / "last.ckpt").read_text() == "weights"


def test_an_unwritable_folder_is_named_before_anything_is_measured(
    model: PatronusModule, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(report, "find", lambda *_: pytest.fail("measured"))
    with pytest.raises(OutputError, match=r"cannot write the report to '.*file/out'.*choose another folder"):
        explain(model, subject, str(tmp_path / "file" / "out"), effort=LITTLE, sampling=FEW)


def test_plain_numbers_keep_all_their_digits() -> None:
    value = {"a": torch.tensor([1.0, torch.nan]), "b": (math.inf, 2, "x", None), 3: np.float64("nan")}
    assert plain(value) == {"a": [1.0, None], "b": [None, 2, "x", None], "3": None}


def test_page_speaks_of_what_it_was_given(model: PatronusModule, subject: Subject, findings: Findings) -> None:
    html = page_of(model, findings, subject)
    assert "PlantedFaces" in html
    assert "by 4 numbers and nothing else" in html
    assert "Wearing Hat" in html
    uri = re.search(r'data:image/png;base64,([^"]+)', html)
    assert uri is not None
    assert Image.open(io.BytesIO(base64.b64decode(uri[1]))).size == (3 * 17 - 1, 16)
