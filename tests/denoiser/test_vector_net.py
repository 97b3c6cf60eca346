import numpy as np
import pytest
import torch
from diffusers.models.normalization import AdaLayerNormZero
from torch.nn import functional as F

from patronus_pl.denoiser import VectorNet
from patronus_pl.denoiser.vector_net import AdaptiveBlock
from patronus_pl.errors import InvalidOptionError


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Weights that are nowhere 0, as after some training."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.double()


def test_starts_at_zero_with_every_block_the_identity() -> None:
    network = VectorNet(5, width=32, blocks=3)
    x, t = torch.randn(4, 5), torch.arange(4)
    assert network(x, t).eq(0).all()
    h = torch.randn(4, 32)
    for layer in network.layers:
        assert torch.equal(layer(h, torch.randn(4, network.embedding)), h)


def test_block_conditions_on_time_as_diffusers_does() -> None:
    width = 16
    block, theirs = lively(AdaptiveBlock(width, width, 2)), lively(AdaLayerNormZero(width))
    with torch.no_grad():
        theirs.linear.weight[: 3 * width].copy_(block.modulation.weight)
        theirs.linear.bias[: 3 * width].copy_(block.modulation.bias)
    h, time = torch.randn(4, width).double(), torch.randn(4, width).double()
    modulated, gate, *_ = theirs(h[:, None], emb=time)
    expected = h + gate * block.mlp(modulated[:, 0])
    torch.testing.assert_close(block(h, F.silu(time)), expected)


def test_every_output_sees_every_input_and_the_time_but_no_other_row() -> None:
    network = lively(VectorNet(6, width=24, blocks=2))
    x = torch.randn(3, 6).double()
    t = torch.tensor([1, 50, 99])
    jacobian = torch.func.jacrev(lambda x: network(x, t))(x)
    for row in range(3):
        for other in range(3):
            assert jacobian[row, :, other].ne(0).all() == (row == other)
            assert jacobian[row, :, other].eq(0).all() == (row != other)
    assert (network(x, t) - network(x, t + 1)).abs().min() > 1e-4


def test_octaves_are_fourier_features() -> None:
    """The first layer is given x, then sin and cos of π x, 2 π x and 4 π x of each entry."""
    network = VectorNet(2, width=16, blocks=1, octaves=3)
    given: list[torch.Tensor] = []
    network.first.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    x = torch.tensor([[0.25, -1.3], [2.0, 0.1]])
    network(x, torch.tensor([0, 9]))
    angles = np.stack([np.pi * x.numpy() * k for k in (1, 2, 4)], axis=-1).reshape(2, -1)
    expected = np.concatenate([x.numpy(), np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(given[0], expected, atol=1e-5)


def test_a_negative_number_of_octaves() -> None:
    with pytest.raises(InvalidOptionError, match=r"network.octaves is -1; it must not be negative"):
        VectorNet(3, octaves=-1)


@pytest.mark.parametrize("name", ["size", "width", "blocks", "expansion"])
def test_impossible_sizes(name: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"network.{name} is 0; it must be at least 1"):
        VectorNet(**({"size": 3} | {name: 0}))
