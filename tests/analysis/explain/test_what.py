import pytest
import torch

from patronus_pl.analysis.explain.what import what
from patronus_pl.analysis.explain.where import locate
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from tests.analysis.edited import turned_up
from tests.analysis.painter import SQUARES, images, paint, painter


def test_the_painter_paints_the_high_end_where_the_prototype_looks():
    model, x = painter(), images(3)
    found = what(model, turned_up(model, x, Sampling(4)), keep=2)
    assert found.requested.tolist() == model.activation_high.tolist()
    assert found.box.tolist() == [[list(box)] * 2 for box in SQUARES]
    for j in range(4):
        for rank in range(2):
            top, left, bottom, right = SQUARES[j]
            grown = found.after(j)[rank][:, top:bottom, left:right]
            assert grown.flatten() == pytest.approx(float(model.activation_high[j]), abs=1e-3)
            torch.testing.assert_close(found.before(j)[rank], x[found.image[j, rank]], atol=1e-3, rtol=0)
    assert found.activation == pytest.approx(found.requested[:, None].expand(4, 2).numpy(), abs=1e-3)


def test_only_the_prototype_is_turned_up():
    model, x = painter(), images(3)
    found = what(model, turned_up(model, x, Sampling(4), [2]))
    s = model.encode(x)[found.image[0]]
    s[:, 2] = model.activation_high[2]
    torch.testing.assert_close(found.after(0), paint(s), atol=1e-3, rtol=0)


def test_the_best_images_come_first():
    """Prototype 0 also lights up quarter 1: prototype 1 shows best where prototype 0 is high."""
    mixing = torch.eye(4)
    mixing[1, 0] = 0.5
    model, x = painter(mixing), images(5)
    found = what(model, turned_up(model, x, Sampling(4), [1]), keep=3)
    assert found.image[0].tolist() == painter().encode(x)[:, 0].argsort(descending=True)[:3].tolist()
    assert found.activation[0].diff().max() < 0
    assert found.activation_before.shape == (1, 3)


def test_box_and_activations_are_those_of_the_new_image(tiny_model):
    tiny_model.activation_high.fill_(2.0)
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = what(tiny_model, turned_up(tiny_model, x, Sampling(3, batch_size=3), [2, 0]), keep=2, batch_size=3)
    for position, j in enumerate([2, 0]):
        torch.testing.assert_close(locate(tiny_model, found.after(position)).box[:, j], found.box[position])
        s = tiny_model.encode(found.after(position))[:, j].detach()
        torch.testing.assert_close(s, found.activation[position], rtol=1e-3, atol=1e-4)
        s = tiny_model.encode(found.before(position))[:, j].detach()
        torch.testing.assert_close(s, found.activation_before[position], rtol=1e-3, atol=1e-4)


def test_keeps_no_more_images_than_there_are():
    model = painter()
    assert what(model, turned_up(model, images(2), Sampling(2)), keep=9).image.shape == (4, 2)


def test_keep_must_be_positive():
    model = painter()
    with pytest.raises(InvalidOptionError, match="keep is 0"):
        what(model, turned_up(model, images(2), Sampling(2)), keep=0)
