"""A model of which everything is known: it paints the activations as four grey squares, and reads them back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from patronus_pl.denoiser import UNet
from patronus_pl.diffusion import NoiseSchedule, weights_of_rows
from patronus_pl.modules import PatronusModule
from patronus_pl.prototypes import PatchEncoder, PrototypeLayer

SQUARES = [(0, 0, 4, 4), (0, 4, 4, 8), (4, 0, 8, 4), (4, 4, 8, 8)]
"""Boxes of the four prototypes in an image of 8 × 8 pixels: each sees its own quarter."""


def paint(s: Tensor) -> Tensor:
    """(b, 4) → (b, 1, 8, 8): quarter j has the grey level s_j."""
    return s.reshape(-1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)


class Painter(PatronusModule):
    """Denoises everything into paint(mixing @ s), whatever the noise; reads s_j back as the mean of quarter j."""

    mixing: Tensor
    shown: Tensor

    def encode(self, x):
        return x.reshape(-1, 2, 4, 2, 4).mean((2, 4)).flatten(1)

    def similarity_map(self, x):
        values = self.encode(x)
        return torch.diag_embed(values + 9).reshape(-1, 4, 2, 2)

    def denoiser_for(self, s, keep=None, base=None, guidance=None):
        if guidance is not None:  # the painter is linear in s, and so is its guidance
            s = base + weights_of_rows(guidance, s, base)[:, None] * (s - base)

        def denoise(x_t, t):
            step = int(t[0])
            return paint((s @ self.mixing.T) * (step < self.shown))

        return denoise


def painter(mixing: Tensor | None = None, shown: Sequence[int] = (1000, 1000, 1000, 1000)) -> Painter:
    """Make one.

    Args:
        mixing: row k says how much of each requested s_j arrives in quarter k; None: what is asked is what comes.
        shown: for t from shown[j] on, quarter j is still grey (0).
    """
    model = Painter(
        (1, 8, 8),
        PatchEncoder((1, 4), (4,), (4,), (0,)),
        PrototypeLayer(4, 4),
        UNet(1, 4, base=8, multipliers=(1,), blocks=1),
        NoiseSchedule(),
    )
    model.mixing = torch.eye(4) if mixing is None else mixing
    model.shown = torch.tensor(shown)
    model.activation_low.copy_(torch.tensor([-0.5, -0.4, -0.8, -0.2]))
    model.activation_high.copy_(torch.tensor([0.5, 0.6, 0.4, 0.8]))
    model.prototypes.std.copy_(torch.tensor([0.25, 0.2, 0.5, 0.4]))
    return model.eval()


def images(n: int, seed: int = 0) -> Tensor:
    """Some pictures that it could have painted."""
    return paint(torch.rand(n, 4, generator=torch.Generator().manual_seed(seed)) - 0.5)
