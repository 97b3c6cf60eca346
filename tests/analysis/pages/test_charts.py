"""Charts are checked through what can be read off their PNG."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patronus_pl.analysis.explain.census import census
from patronus_pl.analysis.explain.recovery import Recovery
from patronus_pl.analysis.pages import charts

ACCENT = (0xC2, 0x57, 0x1A)
SECOND = (0x2C, 0x7A, 0x8C)


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def count(pixels: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((pixels[..., : len(colour)] == colour).all(-1).sum())


def test_matrix_colours_by_sign_and_greys_out_what_is_unknown():
    values = torch.tensor([[1.0, -1.0], [0.0, torch.nan]])
    shown = read(charts.matrix(values, "title", "row", "column"))
    grey = (0xDD, 0xDD, 0xDD)
    cells = count(shown, grey)
    assert cells > 1000
    for colour in (ACCENT, SECOND):
        assert count(shown, colour) == pytest.approx(cells, rel=0.1)


def test_matrix_of_nothing_known_is_drawn():
    assert count(read(charts.matrix(torch.full((2, 2), torch.nan))), (0xDD, 0xDD, 0xDD)) > 1000


def test_curves_are_drawn_with_bands_and_repeat_to_the_byte():
    x = torch.arange(5.0)
    bands = [(x - 1, x + 1), (-x - 1, -x + 1)]
    drawn = charts.curves(x, [x, -x], ["up", "down"], bands, "title", "t", "s")
    assert drawn == charts.curves(x, [x, -x], ["up", "down"], bands, "title", "t", "s")
    bare = charts.curves(x, [x, -x], ["up", "down"], None, "title", "t", "s")
    white = (255, 255, 255)
    assert count(read(drawn), white) < count(read(bare), white)


def test_the_census_marks_the_dead_and_the_global():
    s = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 1e-4])
    found = census(s, torch.eye(3), torch.tensor([0.1, 0.9, 0.1]))
    shown = read(charts.census_picture(found))
    quiet = (0x7A, 0x76, 0x6D)
    bars = shown[:, : shown.shape[1] // 2]
    assert count(bars, ACCENT) == pytest.approx(count(bars, SECOND), rel=0.4)
    assert count(bars, ACCENT) > 1000
    assert count(bars, quiet) < 1000  # no more than the axes: the dead one has no height
    assert charts.census_picture(found) == charts.census_picture(found)


def test_panels_have_a_point_for_each_number_that_is_known():
    values = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[4.0, 4.0], [torch.nan, 4.0]]])
    drawn = charts.panels(values, ["one", "two"], ["a", "b"], "title")
    assert drawn == charts.panels(values, ["one", "two"], ["a", "b"], "title")
    points = [count(read(charts.panels(values[k : k + 1], ["one"], ["a", "b"])), ACCENT) for k in (0, 1)]
    nothing = count(read(charts.panels(torch.full((1, 2, 2), torch.nan), ["one"], ["a", "b"])), ACCENT)
    assert nothing == 0 < points[1] < points[0]


def test_panels_start_a_new_row_after_the_fifth():
    values = torch.rand(6, 3, 1)
    five, six = (read(charts.panels(values[:n], list("abcdef")[:n], list("xyz"))).shape for n in (5, 6))
    assert six[0] > 1.5 * five[0]
    assert six[1] == five[1]


def test_recovery_is_deep_where_all_is_known_and_dotted_where_half_is():
    def drawn(known: float, half: float) -> Any:
        times = torch.full((2, 3), half)
        k = torch.full((2, 4), known)
        found = Recovery(torch.arange(4), torch.linspace(-8, 4, 4), k, times, times - 1, times + 1, torch.zeros(2))
        return charts.recovery_map(found, [1, 0])

    ink = (0x26, 0x24, 0x1F)
    assert count(read(drawn(1.0, 0.0)), ACCENT) > count(read(drawn(0.0, 0.0)), ACCENT) + 5000
    assert count(read(drawn(0.0, 0.0)), ink) > count(read(drawn(0.0, torch.nan)), ink)
    assert drawn(0.5, 0.0) == drawn(0.5, 0.0)
