"""Timestep embedding, self-attention and residual block, of which the U-Net is built."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from patronus_pl.types import Timesteps


def timestep_embedding(t: Timesteps, dim: int) -> Float[Tensor, "b dim"]:
    """Return [sin(t ω_k), cos(t ω_k)], ω_k = 10000^(-k / (dim/2 - 1)) (Vaswani et al. 2017; Ho et al. 2020)."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000.0) / (half - 1)))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class SelfAttention(nn.Module):
    """x + MHSA(GroupNorm(x)) over all positions."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return x with what each position takes from the others, in the same shape."""
        b, c, h, w = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        mixed: Tensor = attended.transpose(1, 2).reshape(b, c, h, w)
        return x + mixed


class ResidualBlock(nn.Module):
    """norm → SiLU → conv → + time + condition → norm → SiLU → dropout → conv → + skip (→ attention).

    h += Dense_t(SiLU(temb)) + Dense_s(SiLU(semb)) after the first convolution: the only way in for the activations.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, groups: int, dropout: float, heads: int | None = None
    ) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(groups, inputs)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedding, outputs)
        self.condition = nn.Linear(embedding, outputs)
        self.norm_2 = nn.GroupNorm(groups, outputs)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = SelfAttention(outputs, heads, groups) if heads else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "b e"], condition: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b k h w"]:
        """Return the block's output; `time` and `condition` are embeddings after their SiLU."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = h + (self.time(time) + self.condition(condition))[:, :, None, None]
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h))))
        output: Tensor = self.attention(h + self.skip(x))
        return output
