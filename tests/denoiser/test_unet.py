from typing import Any

import pytest
import torch
from torch.nn import functional as F

from patronus_pl.denoiser import UNet
from patronus_pl.errors import InvalidOptionError
from patronus_pl.prototypes import PatchEncoder, PrototypeLayer


def small(image_channels: int = 1, condition_dim: int = 3, **options: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(image_channels, condition_dim, **{"base": 8, "multipliers": (1, 2, 3), "blocks": 1, **options}).eval()


def inputs(
    net: UNet, height: int = 16, width: int = 16, batch: int = 2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(batch, net.image_channels, height, width, generator=generator)
    return x_t, torch.tensor([3, 700, 41][:batch]), torch.randn(batch, net.condition_dim, generator=generator)


def predict(net: UNet, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    return net(x_t, t, net.embed_condition(condition)).detach()


def count(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_size_is_the_papers() -> None:
    """25.3 M at 64 px in colour with 100 prototypes: encoder, prototypes and U-Net together."""
    assert count(PatchEncoder(), PrototypeLayer(100), UNet(3, 100)) / 1e6 == pytest.approx(25.3, abs=0.05)


@pytest.mark.parametrize("size", [(16, 16), (29, 35), (9, 40), (5, 3)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"patch": 2, "head_channels": 4}, {"patch": 4, "head_channels": 2}, {"patch": 2}]
)
def test_any_size_and_kind_of_image(size: tuple[int, int], channels: int, options: dict[str, int]) -> None:
    net = small(channels, **options)
    x_t, t, condition = inputs(net, *size)
    output = predict(net, x_t, t, condition)
    assert output.shape == x_t.shape
    assert output.std() > 0


def test_a_single_prototype_conditions() -> None:
    net = small(condition_dim=1)
    x_t, t, condition = inputs(net)
    assert not torch.equal(predict(net, x_t, t, condition), predict(net, x_t, t, condition + 1))


def test_rows_of_a_batch_do_not_mix() -> None:
    net = small(patch=2, head_channels=4)
    x_t, t, condition = inputs(net, batch=3)
    together = predict(net, x_t, t, condition)
    alone = torch.cat([predict(net, x_t[i : i + 1], t[i : i + 1], condition[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_every_input_matters() -> None:
    net = small()
    x_t, t, condition = inputs(net)
    before = predict(net, x_t, t, condition)
    for changed in ((x_t + 1, t, condition), (x_t, t + 1, condition), (x_t, t, condition + 1)):
        assert (predict(net, *changed) - before).abs().max() > 1e-4


@pytest.mark.parametrize("options", [{}, {"patch": 2, "head_channels": 4}, {"attention": (True, False, True)}])
def test_no_weight_is_idle(options: dict[str, Any]) -> None:
    net = small(**options)
    x_t, t, condition = inputs(net)
    net(x_t, t, net.embed_condition(condition)).square().sum().backward()
    idle = [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


def test_padding_is_cut_again() -> None:
    """An image of uneven sides is one with zeros on the right and at the bottom."""
    net = small()
    x_t, t, condition = inputs(net, 14, 15)
    padded = F.pad(x_t, (0, 1, 0, 2))
    torch.testing.assert_close(predict(net, x_t, t, condition), predict(net, padded, t, condition)[..., :14, :15])


@pytest.mark.parametrize("patch", [2, 4])
def test_unshuffling_is_torchs(patch: int) -> None:
    x = torch.randn(2, 3, 8, 16)
    assert torch.equal(small(3, patch=patch).unshuffle(x), F.pixel_unshuffle(x, patch))


def test_attention_only_where_asked() -> None:
    plain, attentive = small(), small(attention=(False, True, False))
    # Group norm (2 x width), projection to queries, keys and values, and back, in 1 block down and 2 up.
    width = 16
    assert count(attentive) - count(plain) == 3 * (2 * width + 4 * width * (width + 1))
    assert count(plain.middle[0]) > count(plain.middle[1])


def test_head_sees_the_noisy_image_at_full_resolution() -> None:
    net = small(patch=2, head_channels=4)
    x_t, t, condition = inputs(net)
    torch.nn.init.zeros_(net.last[2].weight)
    torch.nn.init.zeros_(net.last[2].bias)
    changed = x_t.clone()
    changed[0, 0, 5, 6] += 1
    difference = predict(net, changed, t, condition) - predict(net, x_t, t, condition)
    rows, cols = difference[0, 0].nonzero().T
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (3, 7, 4, 8)  # two 3x3 convolutions
    assert not difference[1].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention": (True,)}, "1 attention flags for 3 levels; give one a level"),
        ({"base": 12}, r"base is 12; it must be a multiple of groups \(8\)"),
        ({"base": 8, "heads": 3}, r"base is 8; .* heads \(3\)"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        small(**options)


def test_an_additive_condition_adds_up() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 4).unbind()
    for additive in (True, False):
        embed = UNet(1, 4, base=8, multipliers=(1,), groups=4, additive_condition=additive).embed_condition
        rest = (embed(a + b) - embed(a) - embed(b) + embed(torch.zeros(3, 4))).abs().max()
        assert (rest < 1e-5) == additive
