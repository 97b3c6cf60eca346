"""`UNet`: predicts the noise (or velocity) in x_t, given t and a condition vector."""

from collections.abc import Sequence

import torch
from einops.layers.torch import Rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from patronus_pl.denoiser.blocks import ResidualBlock, timestep_embedding
from patronus_pl.errors import InvalidOptionError
from patronus_pl.types import Image, Timesteps


class UNet(nn.Module):
    """The paper's U-Net; with `patch: 2` and small multipliers, a laptop's.

    Args:
        image_channels: 1 (grey) or 3 (RGB).
        condition_dim: length of the condition vector: m.
        base: channels at full resolution.
        multipliers: channels of each level, times `base`.
        blocks: residual blocks a level (the way up has one more).
        attention: self-attention a level; None for none. The bottleneck always has it.
        heads: attention heads.
        groups: of GroupNorm.
        dropout: Dropout2d inside the blocks.
        patch: works on patch × patch pixel-unshuffled images: patch² times fewer positions.
        head_channels: channels of a full-resolution head that also sees x_t; 0 for none. With `patch` > 1 the pixels of
            a patch come from separate filters, which leaves a visible grain; the head removes it.
        additive_condition: no hidden layer between the condition and the blocks: its entries add up, so that each is
            easier to use by itself than in combinations. False is the paper's.
        maskable: let entries of the condition be withheld. The condition layer then reads [k · z, 1 - k] for a mask
            k ∈ {0, 1}^m: every entry has a learned embedding that says "not told", which differs from any value.

    Raises:
        InvalidOptionError: sizes that do not fit each other.
    """

    def __init__(
        self,
        image_channels: int,
        condition_dim: int,
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 2,
        attention: Sequence[bool] | None = None,
        heads: int = 4,
        groups: int = 8,
        dropout: float = 0.1,
        patch: int = 1,
        head_channels: int = 0,
        additive_condition: bool = False,
        maskable: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("image_channels", image_channels), ("condition_dim", condition_dim), ("patch", patch)):
            if value < 1:
                raise InvalidOptionError(f"denoiser.{name} is {value}; it must be at least 1")
        levels = len(multipliers)
        attention = tuple(attention) if attention is not None else (False,) * levels
        if len(attention) != levels:
            raise InvalidOptionError(
                f"denoiser: {len(attention)} attention flags for {levels} levels; give one a level"
            )
        if base % groups or base % heads:
            raise InvalidOptionError(
                f"denoiser.base is {base}; it must be a multiple of groups ({groups}) and heads ({heads})"
            )
        self.image_channels, self.condition_dim, self.base = image_channels, condition_dim, base
        self.multipliers, self.blocks, self.attention = tuple(multipliers), blocks, attention
        self.heads, self.groups, self.dropout, self.patch, self.head_channels = (
            heads,
            groups,
            dropout,
            patch,
            head_channels,
        )
        self.additive_condition, self.maskable = additive_condition, maskable
        self.size_multiple = patch * 2 ** (levels - 1)
        embedding = 4 * base

        def block(inputs: int, outputs: int, attend: bool) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, embedding, groups, dropout, heads if attend else None)

        self.time = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        told = nn.Linear(2 * condition_dim if maskable else condition_dim, embedding)
        self.condition = told if additive_condition else nn.Sequential(told, nn.SiLU(), nn.Linear(embedding, embedding))
        self.first = nn.Conv2d(image_channels * patch**2, base, 3, padding=1)

        skips, width = [base], base
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(block(width, base * multiplier, attention[level]))
                width = base * multiplier
                skips.append(width)
            if level < levels - 1:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)

        self.middle = nn.ModuleList([block(width, width, True), block(width, width, False)])

        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(block(width + skips.pop(), base * multiplier, attention[level]))
                width = base * multiplier
            if level > 0:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)))

        outputs = head_channels or image_channels
        self.last = nn.Sequential(
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, outputs * patch**2, 3, padding=1),
            nn.PixelShuffle(patch),
        )
        self.unshuffle = Rearrange("b c (h p) (w q) -> b (c p q) h w", p=patch, q=patch)
        self.head = (
            nn.Sequential(
                nn.Conv2d(head_channels + image_channels, 2 * head_channels, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(2 * head_channels, image_channels, 3, padding=1),
            )
            if head_channels
            else None
        )

    @property
    def condition_input(self) -> nn.Linear:
        """The layer that reads the condition; columns j and, if `maskable`, m + j belong to entry j."""
        return next(layer for layer in self.condition.modules() if isinstance(layer, nn.Linear))

    def embed_condition(
        self, condition: Float[Tensor, "b m"], keep: Bool[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b e"]:
        """Return the condition's embedding: the same at every step of a sampling run, so computed once.

        Args:
            condition: z, the standardised activations.
            keep: k, which of them the network is told; None for all.

        Raises:
            InvalidOptionError: a mask for a network that is not `maskable`.
        """
        if keep is not None and not self.maskable:
            raise InvalidOptionError(
                "this model was trained without masks and has to be told all prototypes; give no `keep`, or train with "
                "model.masks and model.denoiser.maskable"
            )
        if self.maskable:
            told = torch.ones_like(condition) if keep is None else keep.to(condition.dtype)
            condition = torch.cat([told * condition, 1 - told], dim=1)
        embedded: Tensor = self.condition(condition)
        return embedded if self.additive_condition else F.silu(embedded)

    def forward(self, x_t: Image, t: Timesteps, embedded_condition: Float[Tensor, "b e"]) -> Image:
        """The network's prediction, shaped like x_t. `embedded_condition` comes from `embed_condition`."""
        height, width = x_t.shape[-2:]
        # Sides that the levels cannot halve are padded on the right and at the bottom, and cut again at the end.
        x_t = F.pad(x_t, (0, -width % self.size_multiple, 0, -height % self.size_multiple))
        time = F.silu(self.time(timestep_embedding(t, self.base).to(self.first.weight.dtype)))
        h: Tensor = self.first(self.unshuffle(x_t) if self.patch > 1 else x_t)
        skips = [h]
        for layer in self.down:
            h = layer(h, time, embedded_condition) if isinstance(layer, ResidualBlock) else layer(h)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, time, embedded_condition)
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                h = layer(torch.cat([h, skips.pop()], dim=1), time, embedded_condition)
            else:
                h = layer(h)
        h = self.last(h)
        if self.head is not None:
            h = self.head(torch.cat([h, x_t], dim=1))
        return h[..., :height, :width]
