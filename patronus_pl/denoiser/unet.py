"""`UNet`: a network of x_t, the timestep and a condition vector; `diffusion.Prediction` says what its output means."""

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
    """The paper's U-Net. With `patch: 4` and small multipliers it trains on a laptop.

    Args:
        image_channels: 1 (grey) or 3 (RGB).
        condition_dim: m, the length of the condition vector.
        base: channels at full resolution.
        multipliers: channels of each level, times `base`.
        blocks: residual blocks of each level; the way up has one more.
        attention: whether each level has self-attention; None for none. The bottleneck always has it.
        heads: attention heads.
        groups: groups of GroupNorm.
        dropout: probability of Dropout2d inside the blocks.
        patch: side of the squares of pixels that become one position: patch² times fewer positions to work on.
        head_channels: channels of a full-resolution head that also sees x_t; 0 for none. With `patch` > 1 the pixels of
            a patch come from separate filters, which leaves a visible grain; the head removes it.
        additive_condition: put no hidden layer between the condition and the blocks. Its entries then add up, and each
            is easier to use by itself than in combinations. False is the paper's choice.
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
        self.image_channels, self.condition_dim, self.base = image_channels, condition_dim, base
        self.multipliers, self.blocks = tuple(multipliers), blocks
        self.attention = (False,) * len(multipliers) if attention is None else tuple(attention)
        self.heads, self.groups, self.dropout = heads, groups, dropout
        self.patch, self.head_channels = patch, head_channels
        self.additive_condition, self.maskable = additive_condition, maskable
        self._check_sizes()
        self.size_multiple = patch * 2 ** (len(multipliers) - 1)
        embedding = 4 * base
        self.time = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        told = nn.Linear(2 * condition_dim if maskable else condition_dim, embedding)
        self.condition = told if additive_condition else nn.Sequential(told, nn.SiLU(), nn.Linear(embedding, embedding))
        self.first = nn.Conv2d(image_channels * patch**2, base, 3, padding=1)
        widths = [base * multiplier for multiplier in multipliers]
        self.down, skips = self._way_down(widths)
        self.middle = nn.ModuleList([self._block(widths[-1], widths[-1], True), self._block(widths[-1], widths[-1])])
        self.up = self._way_up(widths, skips)
        self.last = nn.Sequential(
            nn.GroupNorm(groups, widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], (head_channels or image_channels) * patch**2, 3, padding=1),
            nn.PixelShuffle(patch),
        )
        self.unshuffle = Rearrange("b c (h p) (w q) -> b (c p q) h w", p=patch, q=patch)
        self.head = self._full_resolution_head() if head_channels else None

    def _check_sizes(self) -> None:
        for name in ("image_channels", "condition_dim", "patch"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"denoiser.{name} is {getattr(self, name)}; it must be at least 1")
        if len(self.attention) != len(self.multipliers):
            raise InvalidOptionError(
                f"denoiser: {len(self.attention)} attention flags for {len(self.multipliers)} levels; give one a level"
            )
        if self.base % self.groups or self.base % self.heads:
            raise InvalidOptionError(
                f"denoiser.base is {self.base}; it must be a multiple of groups ({self.groups}) and heads "
                f"({self.heads})"
            )

    def _block(self, inputs: int, outputs: int, attend: bool = False) -> ResidualBlock:
        heads = self.heads if attend else None
        return ResidualBlock(inputs, outputs, 4 * self.base, self.groups, self.dropout, heads)

    def _way_down(self, widths: Sequence[int]) -> tuple[nn.ModuleList, list[int]]:
        """Return the layers from full resolution to the coarsest level, and the channels of what each hands across."""
        layers, skips, width = nn.ModuleList(), [self.base], self.base
        for level, own in enumerate(widths):
            for _ in range(self.blocks):
                layers.append(self._block(width, own, self.attention[level]))
                width = own
                skips.append(width)
            if level < len(widths) - 1:
                layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        return layers, skips

    def _way_up(self, widths: Sequence[int], skips: list[int]) -> nn.ModuleList:
        """Return the layers back to full resolution; each block takes one of the skips, the last one first."""
        layers, width = nn.ModuleList(), widths[-1]
        for level, own in reversed(list(enumerate(widths))):
            for _ in range(self.blocks + 1):
                layers.append(self._block(width + skips.pop(), own, self.attention[level]))
                width = own
            if level > 0:
                layers.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)))
        return layers

    def _full_resolution_head(self) -> nn.Sequential:
        hidden = 2 * self.head_channels
        return nn.Sequential(
            nn.Conv2d(self.head_channels + self.image_channels, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden, self.image_channels, 3, padding=1),
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
