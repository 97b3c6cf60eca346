import numpy as np
import pytest
import torch
from torch.nn import functional as F

from patronus_pl.errors import InvalidOptionError
from patronus_pl.prototypes import PatchEncoder

LARGE = {
    "channels": (1, 4, 4, 4, 4, 4),
    "kernel_sizes": (5, 5, 5, 5, 5),
    "strides": (2, 2, 1, 1, 1),
    "paddings": (1, 1, 0, 0, 0),
}


@pytest.mark.parametrize(
    ("arguments", "size", "published"),
    [({}, 64, 26), ({}, 32, 10), (LARGE, 224, 43)],
)
def test_map_size_is_the_papers(arguments: dict[str, tuple[int, ...]], size: int, published: int) -> None:
    assert PatchEncoder(**arguments).map_size(size, size) == (published, published)


@pytest.mark.parametrize("height", [13, 14, 29, 32])
@pytest.mark.parametrize("width", [13, 35, 64])
def test_map_size_is_that_of_the_output(height: int, width: int) -> None:
    encoder = PatchEncoder((1, 2, 2, 2, 5))
    assert encoder(torch.zeros(2, 1, height, width)).shape == (2, 5, *encoder.map_size(height, width))


def test_output_is_that_of_plain_convolutions() -> None:
    encoder = PatchEncoder((3, 4, 6), kernel_sizes=(5, 3), strides=(2, 1), paddings=(2, 0))
    image = torch.randn(2, 3, 17, 21)
    first, second = encoder.state_dict()["layers.0.weight"], encoder.state_dict()["layers.1.weight"]
    expected = F.conv2d(F.conv2d(image, first, stride=2, padding=2).clamp_min(0), second).clamp_min(0)
    torch.testing.assert_close(encoder(image), expected)


def test_the_last_relu_can_be_left_out() -> None:
    with_it, without = (
        PatchEncoder((1, 4, 8), (3, 3), (1, 1), (0, 0)),
        PatchEncoder((1, 4, 8), (3, 3), (1, 1), (0, 0), last_relu=False),
    )
    without.load_state_dict(with_it.state_dict())
    image = torch.randn(2, 1, 8, 8)
    assert (without(image) < 0).any()
    assert torch.equal(without(image).clamp_min(0), with_it(image))


@pytest.mark.parametrize(
    ("init", "layer", "std"), [("he", 1, (2 / 576) ** 0.5), ("he", 0, (2 / 27) ** 0.5), ("normal", 1, 0.1)]
)
def test_spread_of_the_first_weights(init: str, layer: int, std: float) -> None:
    torch.manual_seed(0)
    state = PatchEncoder((3, 64, 256), (3, 3), (1, 1), (0, 0), init=init).state_dict()
    assert state[f"layers.{layer}.weight"].std().item() == pytest.approx(std, rel=0.05)
    assert not state[f"layers.{layer}.bias"].any()


@pytest.mark.parametrize(("size", "ramp"), [(3, [0.5, 1, 0.5]), (2, [1, 1]), (4, [0.4, 0.8, 0.8, 0.4]), (1, [1])])
def test_centred_weights_fade_towards_the_edges(size: int, ramp: list[float]) -> None:
    torch.manual_seed(0)
    weight = PatchEncoder((16, 2000), (size,), (1,), (0,), init="centred").state_dict()["layers.0.weight"]
    spread = weight.std((0, 1)).numpy()
    np.testing.assert_allclose(spread / spread.max(), np.outer(ramp, ramp) / max(ramp) ** 2, atol=0.03)
    assert weight.square().mean().item() == pytest.approx(2 / (16 * size**2), rel=0.05)  # as He's


def test_one_entry_a_layer() -> None:
    with pytest.raises(
        InvalidOptionError, match="5 channels ask for 4 layers, but there are 3 kernel sizes, 4 strides"
    ):
        PatchEncoder(kernel_sizes=(3, 3, 3))


@pytest.mark.parametrize(("height", "width"), [(12, 32), (32, 12), (1, 1)])
def test_an_image_below_the_smallest(height: int, width: int) -> None:
    """With its padding the paper's encoder reaches from 13 pixels on."""
    with pytest.raises(
        InvalidOptionError, match=f"image of {height}x{width} pixels is smaller than .* 15 pixels; enlarge"
    ):
        PatchEncoder().map_size(height, width)
