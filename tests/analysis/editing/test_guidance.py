"""Guidance of edits, by a painter of whose edits only a known share arrives."""

import pytest
import torch

from patronus_pl.analysis.editing.decoding import decode
from patronus_pl.analysis.editing.guidance import calibrate, edit_slopes, weight_in_full
from patronus_pl.analysis.editing.inverting import Inverted, invert
from patronus_pl.analysis.editing.jobs import turn_up
from patronus_pl.diffusion import Sampling
from patronus_pl.errors import InvalidOptionError
from tests.analysis.painter import Painter, images, paint, painter
from tests.conftest import ModelFactory

SAMPLING = Sampling(3, batch_size=5)


def weak(*shares: float) -> tuple[Painter, Inverted]:
    """A painter of whose edit of prototype j only the share j arrives, and three images."""
    model = painter(torch.diag(torch.tensor(shares)))
    return model, invert(model, images(3) / 4, SAMPLING)


def test_slopes_are_the_shares_that_arrive() -> None:
    model, inverted = weak(0.5, 0.25, 1.0, 0.0)
    assert edit_slopes(model, inverted, [3, 0, 1], SAMPLING).tolist() == pytest.approx([0, 0.5, 0.25], abs=1e-5)
    weights = torch.tensor([2.0, 3.0, 9.0, 9.0])
    found = edit_slopes(model, inverted, [0, 1], SAMPLING, weights)
    assert found.tolist() == pytest.approx([1.0, 0.75], abs=1e-5)
    model.activation_high[1] = model.activation_low[1]
    assert edit_slopes(model, inverted, [0, 1], SAMPLING).isnan().tolist() == [False, True]


def test_edits_arrive_in_full_at_the_weights_found() -> None:
    """The slope is share · w, so that 1 / share is right."""
    model, inverted = weak(0.5, 0.3, 1.2, 0.01)
    found = calibrate(model, inverted, None, SAMPLING)
    assert found.tolist() == pytest.approx([2.0, 1 / 0.3, 1.0, 8.0], abs=1e-3)
    slopes = edit_slopes(model, inverted, [0, 1], SAMPLING, found)
    assert slopes.tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    assert calibrate(model, inverted, [1], SAMPLING, largest=3.0).tolist() == [1.0, 3.0, 1.0, 1.0]


def test_a_prototype_without_a_range_is_not_guided() -> None:
    model, inverted = weak(0.5, 0.5, 0.5, 0.5)
    model.activation_high[2] = model.activation_low[2]
    assert calibrate(model, inverted, None, SAMPLING).tolist() == pytest.approx([2, 2, 1, 2], abs=1e-3)


def test_weights_are_interpolated_until_slopes_no_longer_grow() -> None:
    nan = float("nan")
    assert weight_in_full([1, 2, 4, 8], [0.2, 0.6, 1.4, nan]) == pytest.approx(3.0)
    assert weight_in_full([1, 2, 4, 8], [0.2, 0.1, nan, nan]) == 1.0
    assert weight_in_full([1, 2, 4, 8], [0.1, 0.2, 0.4, 0.8]) == 8.0
    assert weight_in_full([1, 2], [nan, nan]) == 1.0


def test_guided_pictures_go_further() -> None:
    model, inverted = weak(0.5, 0.5, 1.0, 1.0)
    weights = torch.tensor([2.0, 1.0, 1.0, 1.0])
    s = inverted.s.clone()
    s[:, 0] = 0.5
    found = decode(model, inverted.x_T, s, SAMPLING, weights, inverted.s)
    expected = inverted.s * torch.tensor([0.5, 0.5, 1.0, 1.0])
    expected[:, 0] += 0.5 - inverted.s[:, 0]
    torch.testing.assert_close(found, paint(expected), atol=1e-4, rtol=0)
    unedited = decode(model, inverted.x_T, inverted.s, SAMPLING)
    turned = turn_up(model, inverted, unedited, [0], SAMPLING, weights)
    torch.testing.assert_close(turned.s[0], expected, atol=1e-4, rtol=0)
    assert turned.guidance is weights


def test_guided_batches_are_what_the_model_decodes(make_model: ModelFactory) -> None:
    model = make_model()
    x, s = torch.rand(5, 1, 16, 16) * 2 - 1, torch.rand(5, 3)
    inverted = invert(model, x, SAMPLING)
    found = decode(model, inverted.x_T, s, Sampling(3, batch_size=2), 3.0, inverted.s)
    expected = model.decode(inverted.x_T, s, 3, "dpm++", base=inverted.s, guidance=3.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"largest": 0.5}, "weights up to 0.5; give at least one image, and a largest weight of 1 or more"),
        ({"largest": float("nan")}, "weights up to nan"),
        ({"prototypes": [4]}, r"no prototype 4; choose 0\.\.3"),
        ({"largest": 200.0}, "guidance is 200.0; give numbers between -100 and 100"),
    ],
)
def test_what_cannot_be_calibrated(options: dict[str, object], words: str) -> None:
    model, inverted = weak(0.01, 0.01, 0.01, 0.001)
    with pytest.raises(InvalidOptionError, match=words):
        calibrate(model, inverted, **{"prototypes": None, "sampling": SAMPLING, **options})  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="on 0 images"):
        calibrate(model, inverted.first(0), None, SAMPLING)
