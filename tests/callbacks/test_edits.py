"""Edits of a model of which everything is known: what is asked for, what comes, and what it drags along."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image

from patronus_pl.callbacks import Edit, Edits, Interpolation
from patronus_pl.callbacks.edits import Variant, united
from patronus_pl.errors import InvalidOptionError, OutputError
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from tests.analysis.painter import painter
from tests.callbacks.runs import Squares, faces, trainer
from tests.conftest import ModelFactory

LEAK = torch.tensor([[0.8, 0.0, 0.0, 0.0], [0.5, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
"""Of prototype 0, 4/5 arrive and half goes to quarter 1 too."""
LOW, HIGH = np.array([-0.5, -0.4, -0.8, -0.2]), np.array([0.5, 0.6, 0.4, 0.8])
GREY_LEVEL = 2 / 255


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A process whose OpenMP has threads cannot be forked."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def predict(
    folder: Path, callback: Edits, model: PatronusModule | None = None, data: Any = None
) -> list[dict[str, Any]]:
    """Run it, and read its table."""
    trainer(folder, callback).predict(model or painter(), data or Squares())
    with (folder / "edits" / "edits.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def column(lines: list[dict[str, Any]], name: str, edit: str) -> np.ndarray:
    """(images, prototypes) numbers of one edit."""
    return np.array([float(line[name]) for line in lines if line["edit"] == edit]).reshape(-1, 4)


def originals(data: Squares, split: str = "test") -> np.ndarray:
    return painter().encode(as_floats(data.table(split).__getitems__(range(data.count))["image"])).numpy()


def test_the_table_says_what_was_asked_and_what_came(tmp_path: Path) -> None:
    lines = predict(tmp_path, Edits([Edit(0, value=[0.0, 1.5])]), painter(LEAK))
    s = originals(Squares())
    assert len(lines) == 5 * 3 * 4
    np.testing.assert_allclose(column(lines, "original", "unedited"), s, atol=1e-5)
    unedited = s @ LEAK.numpy().T
    for edit, wanted in (("p0.range=0", -0.5), ("p0.range=1.5", 1.0)):
        requested = s.copy()
        requested[:, 0] = wanted
        np.testing.assert_allclose(column(lines, "requested", edit), requested, atol=1e-5)
        realised = np.clip(requested @ LEAK.numpy().T, -1, 1)
        np.testing.assert_allclose(column(lines, "realised", edit), realised, atol=GREY_LEVEL)
        np.testing.assert_allclose(column(lines, "unedited", edit), unedited, atol=GREY_LEVEL)
        np.testing.assert_allclose(column(lines, "change", edit), realised - unedited, atol=2 * GREY_LEVEL)
        assert (column(lines, "edited", edit) == [1, 0, 0, 0]).all()
    assert (column(lines, "edited", "unedited") == 0).all()
    error = np.square(unedited - s).mean(1)  # every quarter is a quarter of the pixels
    np.testing.assert_allclose(column(lines, "round_trip_psnr", "unedited")[:, 0], 10 * np.log10(4 / error), atol=0.5)


def test_images_that_do_not_come_back_are_flagged(tmp_path: Path) -> None:
    data, edits = Squares(40, batch_size=20), [Edit(0, "remove")]
    good = predict(tmp_path / "good", Edits(edits), painter(), data)
    poor = predict(tmp_path / "poor", Edits(edits), painter(LEAK), data)
    assert {line["flagged"] for line in good} == {"0"}
    assert all(line["flagged"] == str(int(float(line["round_trip_psnr"]) < 25)) for line in poor)
    assert {line["flagged"] for line in poor} == {"0", "1"}


def test_a_model_without_ranges_is_given_those_of_the_validation_split(tmp_path: Path) -> None:
    model, data = painter(), Squares(40, batch_size=20)
    model.activation_low.zero_()
    model.activation_high.fill_(1.0)
    lines = predict(tmp_path, Edits([Edit(1, value=1.0)], images=2), model, data)
    wanted = np.quantile(originals(data, "val")[:, 1], 0.98)
    np.testing.assert_allclose(column(lines, "requested", "p1.range=1")[:, 1], wanted, atol=1e-4)


def test_realised_activations_are_those_of_the_png_files(tmp_path: Path, make_model: ModelFactory) -> None:
    model = make_model(channels=3)
    lines = predict(tmp_path, Edits([Edit(2, "factor", 3.0)], steps=3), model, faces())
    files = {line["file"] for line in lines}
    assert len(files) == 4 * 2
    for file in files:
        pixels = np.asarray(Image.open(tmp_path / "edits" / file))
        assert pixels.shape == (16, 16, 3)
        with torch.inference_mode():
            s = model.encode(torch.tensor(pixels).movedim(-1, 0)[None] / 127.5 - 1)[0]
        realised = [float(line["realised"]) for line in lines if line["file"] == file]
        np.testing.assert_allclose(realised, s.numpy(), rtol=1e-4, atol=1e-5)


def test_each_way_of_setting_a_prototype(tmp_path: Path) -> None:
    edits = [
        Edit(0, "absolute", 0.25),
        Edit(1, "quantile", [0.0, 0.3]),
        Edit(2, "factor", -1.0),
        Edit(3, "remove"),
        Edit(1, "range", 0.5),
    ]
    lines = predict(tmp_path, Edits(edits, together=False))
    s, validation = originals(Squares()), originals(Squares(), "val")
    wanted = {
        "p0.absolute=0.25": (0, 0.25),
        "p1.quantile=0": (1, validation[:, 1].min()),
        "p1.quantile=0.3": (1, np.quantile(validation[:, 1], 0.3)),
        "p2.factor=-1": (2, -s[:, 2]),
        "p3.remove": (3, LOW[3]),
        "p1.range=0.5": (1, (LOW[1] + HIGH[1]) / 2),
    }
    assert {line["edit"] for line in lines} == {"unedited", *wanted}
    for edit, (j, value) in wanted.items():
        requested = s.copy()
        requested[:, j] = value
        np.testing.assert_allclose(column(lines, "requested", edit), requested, atol=1e-5, err_msg=edit)
        np.testing.assert_allclose(column(lines, "realised", edit), requested, atol=GREY_LEVEL, err_msg=edit)


WEAK = torch.diag(torch.tensor([0.5, 0.25, 1.0, 0.1]))
"""Of each edit, this share arrives."""


def test_guided_edits(tmp_path: Path) -> None:
    edits = [Edit(0, "absolute", 0.25), Edit(0, "absolute", 0.25, guidance=3.0), Edit(1, "remove")]
    lines = predict(tmp_path, Edits(edits, together=False, guidance=2.0), painter(WEAK))
    s = originals(Squares())
    for edit, j, value, share, w in (
        ("p0.absolute=0.25", 0, 0.25, 0.5, 2),
        ("p0.absolute=0.25 w=3.0", 0, 0.25, 0.5, 3),
        ("p1.remove", 1, LOW[1], 0.25, 2),
    ):
        expected = np.clip(share * (s[:, j] + w * (value - s[:, j])), -1, 1)
        np.testing.assert_allclose(column(lines, "realised", edit)[:, j], expected, atol=GREY_LEVEL, err_msg=edit)
        np.testing.assert_allclose(column(lines, "requested", edit)[:, j], value, atol=1e-5)
        assert (column(lines, "guidance", edit) == w).all()
    assert (column(lines, "guidance", "unedited") == 1).all()


def test_automatic_guidance_lets_edits_arrive_in_full(tmp_path: Path) -> None:
    """Half of an edit arrives, so that it takes a weight of 2; a weight of its own is left alone."""
    data = Squares(40, batch_size=20)
    edits = [Edit(0, value=[0.0, 1.0]), Edit(1, value=1.0, guidance=3.0), Edit(2, value=1.0)]
    lines = predict(tmp_path, Edits(edits, together=False, guidance="auto", images=4), painter(WEAK), data)
    names = ["unedited", "p0.range=0", "p0.range=1", "p1.range=1 w=3.0", "p2.range=1"]
    assert list(dict.fromkeys(line["edit"] for line in lines)) == names
    assert [column(lines, "guidance", name)[0, 0] for name in names] == [1, 2, 2, 3, 1]
    low, high = (column(lines, "realised", name)[:, 0] for name in names[1:3])
    np.testing.assert_allclose(high - low, 1.0, atol=2 * GREY_LEVEL)


def test_edits_in_one_picture_share_a_weight(tmp_path: Path) -> None:
    edits = [Edit(0, "absolute", 0.0, guidance=2.0), Edit(2, "absolute", 0.0, guidance=4.0)]
    lines = predict(tmp_path, Edits(edits), painter(WEAK))
    s = np.abs(originals(Squares()))
    expected = (2 * s[:, 0] + 4 * s[:, 2]) / (s[:, 0] + s[:, 2])
    found = column(lines, "guidance", "p0.absolute=0 w=2.0,p2.absolute=0 w=4.0")
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 4, 1), rtol=1e-4)


def test_several_at_once_are_combined_each_with_each(tmp_path: Path) -> None:
    edits = [Edit(0, "absolute", [-0.25, 0.25]), Edit(3, "absolute", [-0.5, 0.0, 0.5]), Edit(1, "remove")]
    lines = predict(tmp_path, Edits(edits))
    names = [f"p0.absolute={a:g},p3.absolute={b:g},p1.remove" for a in (-0.25, 0.25) for b in (-0.5, 0.0, 0.5)]
    assert list(dict.fromkeys(line["edit"] for line in lines)) == ["unedited", *names]
    requested = column(lines, "requested", names[3])
    assert (requested[:, [0, 3, 1]] == [0.25, -0.5, -0.4]).all()
    np.testing.assert_allclose(requested[:, 2], originals(Squares())[:, 2], atol=1e-5)
    assert (column(lines, "edited", names[3]) == [1, 1, 0, 1]).all()


def test_long_names_are_cut_and_stay_different() -> None:
    variants = [Variant(f"p{j}.remove", ()) for j in range(30)]
    a, b = united(variants, 0).name, united(variants, 1).name
    assert a != b
    assert max(len(a), len(b)) < 100
    assert united(variants[:2], 5).name == "p0.remove,p1.remove"


@pytest.mark.parametrize(("attribute", "prototype"), [("light_2", 2), ("dark_3", 3)])
def test_the_prototype_that_reads_an_attribute(tmp_path: Path, attribute: str, prototype: int) -> None:
    data = Squares(40, batch_size=20)
    lines = predict(tmp_path, Edits([Edit(attribute, "absolute", 0.1)], images=1), data=data)
    assert {line["edit"] for line in lines} == {"unedited", f"p{prototype}.absolute=0.1"}


def test_interpolation_goes_from_one_image_to_another(tmp_path: Path) -> None:
    pairs = [Interpolation(1, "val/3", pictures=5), Interpolation("test/0", 4, pictures=3)]
    lines = predict(tmp_path, Edits(interpolations=pairs))
    start, end = originals(Squares())[1], originals(Squares(), "val")[3]
    mine = [line for line in lines if line["id"] == "test/1_to_val/3"]
    assert [line["edit"] for line in mine[::4]] == ["0.000", "0.250", "0.500", "0.750", "1.000"]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        between = (1 - share) * start + share * end
        np.testing.assert_allclose(column(mine, "requested", f"{share:.3f}")[0], between, atol=1e-5)
        np.testing.assert_allclose(column(mine, "realised", f"{share:.3f}")[0], between, atol=GREY_LEVEL)
    assert len(lines) == (5 + 3) * 4
    assert sorted(path.name for path in (tmp_path / "edits").glob("*val*")) == sorted(
        f"test%2F1_to_val%2F3_{share:.3f}.png" for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    assert {path.name for path in (tmp_path / "edits").glob("inter*")} == {
        "interpolations_5.png",
        "interpolations_3.png",
    }


def test_a_grid_shows_the_first_images(tmp_path: Path) -> None:
    predict(tmp_path, Edits([Edit(0, "absolute", -1.0)], rows=3))
    grid = np.asarray(Image.open(tmp_path / "edits" / "edits.png").convert("RGB"))
    black = (grid == 0).all(-1)
    height, width = black.any(1).sum(), black.any(0).sum()
    assert black.sum() == height * width  # one column, of the edited picture; no other pixel is black
    assert height == 3 * width  # a quarter of three pictures


@pytest.mark.parametrize(("images", "edited"), [(3, 3), (1, 1), (100, 5), (None, 5)])
def test_only_so_many_images(tmp_path: Path, images: int | None, edited: int) -> None:
    lines = predict(tmp_path, Edits([Edit(0, "remove")], images=images))
    assert list(dict.fromkeys(line["id"] for line in lines)) == [f"test/{k}" for k in range(edited)]
    assert len(list((tmp_path / "edits").glob("test*.png"))) == 2 * edited


def test_another_folder_and_the_folder_of_the_run(tmp_path: Path) -> None:
    trainer(tmp_path, Edits([Edit(0, "remove")], out=str(tmp_path / "a" / "b"))).predict(painter(), Squares())
    assert (tmp_path / "a" / "b" / "edits.csv").is_file()
    logger = pl.loggers.CSVLogger(tmp_path, "runs")
    trainer(tmp_path, Edits([Edit(0, "remove")]), logger=logger).predict(painter(), Squares())
    assert (tmp_path / "runs" / "version_0" / "edits" / "edits.csv").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing to do; give it edits or interpolations"),
        ({"edits": [], "interpolations": []}, "nothing to do"),
        ({"edits": [Edit(4, value=1.0)]}, r"no prototype 4; choose 0\.\.3"),
        ({"edits": [Edit(-1, value=1.0)]}, "no prototype -1"),
        ({"edits": [Edit("Smiling", value=1.0)]}, "no attribute 'Smiling'; the data have light_0, light_1"),
        (
            {"edits": [Edit("always", value=1.0)]},
            "'always' is the same in all 5 images looked at; raise Edits.reference",
        ),
        ({"edits": [Edit(1)]}, "prototype 1: value is None; range takes one or more numbers"),
        ({"edits": [Edit(1, "factor", [])]}, r"value is \[\]; factor takes one or more numbers"),
        ({"edits": [Edit(1, "remove", 2.0)]}, "value is 2.0; remove takes no value"),
        (
            {"edits": [Edit("light_0", "quantile", [0.5, 1.5])]},
            r"'light_0': quantile \[0.5, 1.5\] must lie in \[0, 1\]",
        ),
        ({"interpolations": [Interpolation(0, 1, pictures=1)]}, r"1 picture\(s\); it takes at least 2"),
        ({"interpolations": [Interpolation(0, 5)]}, r"no image 5; give a row of the test split \(0\.\.4\) or an id"),
        ({"interpolations": [Interpolation("me", 0)]}, "no image 'me'; .* or an id like 'test/0'"),
        ({"edits": [Edit(1, "remove")], "images": 0}, "Edits.images is 0; it must be at least 1"),
        ({"edits": [Edit(1, "remove")], "steps": 0}, "Edits.steps is 0"),
        ({"edits": [Edit(1, "remove")], "guidance": float("nan")}, "Edits: guidance is nan; .* -100 and 100, or auto"),
        ({"edits": [Edit(1, "remove", guidance=1e9)]}, "edit of prototype 1: guidance is 1000000000.0; give a number"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        predict(tmp_path, Edits(**options))
    assert not (tmp_path / "edits").exists()


class Unlabelled(Squares):
    attribute_names = ()

    def load(self, split: str) -> Any:
        table = super().load(split)
        table.attributes = table.attributes[:, :0]
        return table


def test_data_without_attributes(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="no attribute 'light_0'; the data have none"):
        predict(tmp_path, Edits([Edit("light_0", "remove")]), data=Unlabelled())
    assert predict(tmp_path, Edits([Edit(0, "remove")]), data=Unlabelled())


def test_other_modules_and_data_are_refused(tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(torch.zeros(2, 32))
    with pytest.raises(
        InvalidOptionError, match="not BoringModel and NoneType; choose others or leave the callback out"
    ):
        trainer(tmp_path, Edits([Edit(0, "remove")])).predict(BoringModel(), loader)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        OutputError, match=r"cannot write to '.*file/edits' \(Not a directory\); choose another Edits.out"
    ):
        predict(tmp_path, Edits([Edit(0, "remove")], out=str(tmp_path / "file" / "edits")))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_processes_write_what_one_does(tmp_path: Path, one_thread: None) -> None:
    def run(name: str, **options: Any) -> tuple[str, dict[str, bytes]]:
        edits = Edits(
            [Edit(0, value=[0.0, 1.0])],
            interpolations=[Interpolation(0, 1, 3), Interpolation(1, 2, 3)],
            images=4,
            rows=3,
        )
        trainer(tmp_path / name, edits, **options).predict(painter(), Squares(), return_predictions=False)
        folder = tmp_path / name / "edits"
        files = {path.name: path.read_bytes() for path in folder.glob("*.png")}
        return (folder / "edits.csv").read_text(encoding="utf-8"), files

    assert run("two", devices=2, strategy="ddp_fork") == run("one")
