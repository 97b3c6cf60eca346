import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch.nn import functional as F

from patronus_pl.denoiser.blocks import ResidualBlock, SelfAttention, timestep_embedding


@pytest.mark.parametrize("dim", [8, 16, 64])
def test_timestep_embedding_is_that_of_diffusers(dim: int) -> None:
    t = torch.tensor([0, 1, 41, 500, 999])
    expected = get_timestep_embedding(t, dim, flip_sin_to_cos=False, downscale_freq_shift=1)
    torch.testing.assert_close(timestep_embedding(t, dim), expected, atol=1e-4, rtol=0)


def test_attention_by_hand() -> None:
    """Softmax of scaled products over all positions, head by head."""
    torch.manual_seed(0)
    block, x = SelfAttention(8, heads=2, groups=4), torch.randn(2, 8, 3, 5)
    state = block.state_dict()
    tokens = F.group_norm(x, 4).flatten(2).transpose(1, 2)
    q, k, v = (tokens @ state["attention.in_proj_weight"].T).chunk(3, dim=-1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = (q[..., head] @ k[..., head].transpose(1, 2) / 4**0.5).softmax(-1)
        heads.append(weights @ v[..., head])
    mixed = torch.cat(heads, -1) @ state["attention.out_proj.weight"].T
    torch.testing.assert_close(block(x), x + mixed.transpose(1, 2).reshape(x.shape))


def test_residual_block_by_hand() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 16, embedding=12, groups=4, dropout=0.5).eval()
    x, time, condition = torch.randn(2, 8, 5, 7), torch.randn(2, 12), torch.randn(2, 12)
    w = block.state_dict()
    h = F.conv2d(F.silu(F.group_norm(x, 4)), w["conv_1.weight"], w["conv_1.bias"], padding=1)
    embedded = time @ w["time.weight"].T + w["time.bias"] + condition @ w["condition.weight"].T + w["condition.bias"]
    h = F.group_norm(h + embedded[:, :, None, None], 4)
    h = F.conv2d(F.silu(h), w["conv_2.weight"], w["conv_2.bias"], padding=1)
    torch.testing.assert_close(block(x, time, condition), h + F.conv2d(x, w["skip.weight"], w["skip.bias"]))


def test_equal_widths_are_skipped_as_they_are() -> None:
    block = ResidualBlock(8, 8, embedding=12, groups=4, dropout=0.0)
    torch.nn.init.zeros_(block.conv_2.weight)
    torch.nn.init.zeros_(block.conv_2.bias)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x, torch.randn(2, 12), torch.randn(2, 12)), x)


def test_dropout_takes_whole_channels() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, embedding=12, groups=4, dropout=0.5)
    dropped = block.dropout(torch.ones(4, 8, 3, 3)).flatten(2)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[..., :1]).all()
