"""The whole audit, on a painter of whom it is known what it ties together; its numbers and its page."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from patronus_pl.analysis.audit.audit import Audit, AuditEffort, audit, auditable, restricted
from patronus_pl.analysis.audit.audit_report import audit_numbers, render_audit, told, worst_pairs, write_audit
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError, OutputError
from tests.analysis.labelled import NAMES, judge, leaking, subject
from tests.analysis.painter import Painter, painter

LITTLE = Sampling(steps=2, batch_size=128)
EFFORT = AuditEffort(controls=8, control_images=10, precision=0.2, samples=200, shown=2)


def audited(model: Painter, agree: float = 0.5, effort: AuditEffort = EFFORT, **options: Any) -> Audit:
    images = torch.from_numpy(subject(40, agree, seed=2).images)
    return audit(model, subject(agree=agree), images, judge, subject(300, agree, seed=1), effort, LITTLE, **options)


def verdicts(found: Audit) -> dict[tuple[str, str], str]:
    rows = enumerate(found.ties.verdict)
    return {(NAMES[p], NAMES[b]): v for p, row in rows for b, v in enumerate(row) if v not in ("itself", "independent")}


def test_a_model_that_moves_each_alone_has_no_ties() -> None:
    found = audited(painter())
    assert verdicts(found) == {}
    assert found.ties.worst_unexplained() == 0
    assert found.ties.tie.fill_diagonal_(0).abs().max().item() < 0.1
    # From the lower to the upper grey level, which is 1 by the judge's gain, and 2 % of noise at each end.
    torch.testing.assert_close(found.ties.own_effect, torch.full((4,), 1.2), atol=0.1, rtol=0)


@pytest.mark.parametrize("move", ["direction", "best", "prototypes"])
def test_a_tie_that_the_model_invented_is_found_whatever_is_moved(move: Any) -> None:
    """Asking for a hat also gives 0.6 of a smile, of which the data know nothing."""
    found = audited(painter(leaking(of=0, into=1, share=0.6)), effort=replace(EFFORT, move=move))
    assert verdicts(found) == {("hat", "smile"): "introduced"}
    assert found.ties.tie[0, 1].item() == pytest.approx(0.6, abs=0.1)
    assert found.ties.worst_unexplained() == pytest.approx(0.6, abs=0.15)


def test_a_tie_of_the_data_is_told_from_one_that_was_amplified() -> None:
    model = painter(leaking(of=0, into=1, share=0.7))
    best = replace(EFFORT, move="best")
    assert verdicts(audited(model, agree=0.9, effort=best)) == {("hat", "smile"): "in the data"}
    assert verdicts(audited(model, agree=0.65, effort=best)) == {("hat", "smile"): "amplified"}
    assert verdicts(audited(painter(), agree=0.9, effort=best)) == {}


def test_inverted_noise_gives_the_same_answer() -> None:
    found = audited(painter(leaking(of=0, into=1, share=0.6)), effort=replace(EFFORT, noise="inverted"))
    assert verdicts(found) == {("hat", "smile"): "introduced"}


def test_random_prototypes_may_be_the_control() -> None:
    """What they are asked for is no tie: a model that moves each alone has a null of nothing."""
    effort = replace(EFFORT, control="prototype")
    assert verdicts(audited(painter(leaking(of=0, into=1, share=0.6)), effort=effort)) == {
        ("hat", "smile"): "introduced"
    }
    found = audited(painter(), effort=effort)
    assert verdicts(found) == {}
    assert found.null.abs().max().item() < 0.1


def test_the_twin_takes_away_what_is_not_the_bias() -> None:
    leaky = painter(leaking(of=0, into=1, share=0.6))
    found = audited(leaky, twin=painter(leaking(of=0, into=1, share=0.6)))
    assert verdicts(found) == {}
    assert found.twin is not None
    torch.testing.assert_close(found.twin, found.ties.tie)


def test_a_twin_has_other_prototypes() -> None:
    with pytest.raises(InvalidOptionError, match="a twin has other ones"):
        audited(painter(), effort=replace(EFFORT, move="prototypes"), twin=painter())


def test_compensated_edits_leak_less() -> None:
    found = audited(painter(leaking(of=0, into=1, share=0.6)), effort=replace(EFFORT, compensate=True))
    assert found.compensated is not None
    assert abs(found.compensated.tie[0, 1].item()) < 0.1
    torch.testing.assert_close(found.compensated.own_effect, found.ties.own_effect, atol=0.1, rtol=0)


def test_more_images_are_asked_for_where_intervals_are_wide() -> None:
    rng = torch.Generator().manual_seed(0)

    def moody(images: torch.Tensor) -> torch.Tensor:
        return (judge(images) + 0.3 * torch.randn(len(images), 4, generator=rng)).clamp(0, 1)

    images = torch.from_numpy(subject(40, seed=2).images)
    found = audit(painter(), subject(), images, moody, subject(300, seed=1), EFFORT, LITTLE)
    widest = (1.96 * found.ties.error[found.ties.tested]).max().item()
    assert found.images_needed == pytest.approx(40 * (widest / 0.2) ** 2, abs=1)
    assert found.images_needed > 40


# ---- wrong input -----------------------------------------------------------------------------------------------------


def constant(column: int) -> Any:
    faces = subject()
    faces.attributes[:, column] = 0
    faces.attributes[:3, column] = 1
    return faces


def test_rare_attributes_are_left_out_and_named() -> None:
    kept, excluded = auditable(constant(2))
    assert kept == ("hat", "smile", "beard")
    assert excluded == {"scarf": "3 of 1000 images have it; 10 must, and as many must not"}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (("hat", "scarf"), "scarf: 3 of 1000 images have it"),
        (("hat", "wig"), "no attribute 'wig'; the data have hat, smile, scarf, beard"),
        (("hat",), "there is only hat"),
    ],
)
def test_attributes_that_cannot_be_audited_are_refused_by_name(wanted: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        auditable(constant(2), wanted)


def test_data_without_attributes_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="no attributes to audit"):
        auditable(restricted(subject(), ()))


def test_too_few_images_and_how_many_are_needed() -> None:
    with pytest.raises(InvalidOptionError, match=r"40 images are too few for intervals of ±0.1: about 97 are needed"):
        audited(painter(), effort=replace(EFFORT, precision=0.1))


def test_a_judge_that_guesses_is_refused() -> None:
    def guess(images: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(images), 4, generator=torch.Generator().manual_seed(0))

    images = torch.from_numpy(subject(40).images)
    with pytest.raises(InvalidOptionError, match="no better than chance on hat, smile, scarf, beard"):
        audit(painter(), subject(), images, guess, subject(300, seed=1), EFFORT, LITTLE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shown": 0}, "effort.shown is 0"),
        ({"controls": 0}, "effort.controls is 0"),
        ({"margin": 0.0}, "effort.margin is 0"),
    ],
)
def test_impossible_plans_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        AuditEffort(**options).check(1000)


def test_a_single_step_is_refused() -> None:
    images = torch.from_numpy(subject(40, seed=2).images)
    with pytest.raises(InvalidOptionError, match=r"sampling\.steps is 1; it must be at least 2"):
        audit(painter(), subject(), images, judge, subject(300, seed=1), EFFORT, Sampling(steps=1))


# ---- numbers and page ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> Audit:
    """Hats drag smiles along, and nobody can judge beards."""

    def blind(images: torch.Tensor) -> torch.Tensor:
        return judge(images).index_fill(1, torch.tensor(3), 0.5)

    faces, names = subject(), ("hat", "smile", "scarf", "<b>&beard")
    reference, trial = replace(faces, attribute_names=names), replace(subject(300, seed=1), attribute_names=names)
    model, images = painter(leaking(of=0, into=1, share=0.6)), torch.from_numpy(subject(40, seed=2).images)
    return audit(model, reference, images, blind, trial, replace(EFFORT, compensate=True), LITTLE)


def numbers_of(found: Audit) -> dict[str, Any]:
    protocol = {"checkpoint": "last.ckpt", "judge": "blind", "data": {"name": "Toys"}, "reference_images": 400}
    return audit_numbers(found, EFFORT, LITTLE, protocol, {"wig": "nobody has it"})


def test_numbers_are_plain_and_tell_of_every_pair(found: Audit) -> None:
    numbers = json.loads(json.dumps(numbers_of(found), allow_nan=False))
    assert numbers["schema_version"] == 1
    assert len(numbers["pairs"]) == 12
    pair = next(pair for pair in numbers["pairs"] if (pair["moved"], pair["attribute"]) == ("hat", "smile"))
    assert pair["verdict"] == "introduced"
    assert pair["interval"][0] <= pair["tie"] <= pair["interval"][1]
    assert abs(pair["compensated"]) < 0.1
    assert numbers["summary"]["worst_unexplained"] == pytest.approx(pair["unexplained"])
    assert numbers["summary"]["verdicts"]["introduced"] == 1
    assert numbers["summary"]["compensated_leakage"] < numbers["summary"]["leakage"]
    assert [a["judged"] for a in numbers["attributes"]] == [True, True, True, False]
    assert numbers["excluded"] == {"wig": "nobody has it"}


def test_the_worst_come_first(found: Audit) -> None:
    numbers = numbers_of(found)
    assert worst_pairs(numbers)[0]["attribute"] == "smile"
    (line,) = told(numbers)
    assert line.startswith("hat -> smile: tie +0.")
    numbers["pairs"][5].update(verdict="in the data", tie=-0.9)
    assert [pair["verdict"] for pair in worst_pairs(numbers)] == ["introduced", "in the data"]


def test_the_page_shows_pictures_and_escapes_names(found: Audit) -> None:
    page = render_audit(found, numbers_of(found))
    assert page.count("data:image/png;base64,") == 1
    assert "<b>&beard" not in page
    assert "&lt;b&gt;&amp;beard" in page
    assert "nobody has it" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_page_without_ties_has_no_pictures() -> None:
    page = render_audit(found := audited(painter()), numbers_of(found))
    assert 'id="worst"' not in page


def test_both_files_are_written_or_an_error_says_why(found: Audit, tmp_path: Path) -> None:
    write_audit(found, numbers_of(found), str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"audit.json", "audit.html"}
    assert json.loads((tmp_path / "audit.json").read_text())["summary"]["tested"] == 6
    with pytest.raises(OutputError, match="choose another folder"):
        write_audit(found, numbers_of(found), str(tmp_path / "missing"))


def test_equal_plans_give_equal_numbers() -> None:
    first, again = (numbers_of(audited(painter(leaking(0, 1, 0.3)))) for _ in range(2))
    assert first == again


def test_pictures_are_those_of_the_first_images(found: Audit) -> None:
    assert found.seen.pictures.shape == (4, 2, 2, 1, 8, 8)
    level = found.seen.pictures[2, :, 1, 0, 0, 0].float() / 127.5 - 1
    torch.testing.assert_close(level / 4 + 0.5, found.seen.scores[2, :2, 1, 0], atol=2e-3, rtol=0)
