"""Another look at an image: what a pattern is recognised by should not change with it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.types import Image

SHIFT = 1 / 16
"""Furthest move of a view in either direction, as a share of the side: 2 of 32 pixels."""
DIMMEST, BRIGHTEST = 0.6, 1.2
"""Range of a view's brightness as a share of the image's."""


def random_views(x: Image, u: Float[Tensor, "b 4"]) -> Image:
    """Of each image a view: mirrored or not, moved a little (its border repeated), dimmer or brighter.

    The usual augmentations of contrastive learning (Chen et al. 2020, SimCLR) that keep a drawing what it is; there is
    no crop, since a patch has a fixed size, and no change of hue.

    Args:
        x: in [-1, 1], of which -1 is black and stays so.
        u: uniform in [0, 1): mirror, rows, columns and brightness of each image.
    """
    b, _, height, width = x.shape
    rows = (torch.arange(height, device=x.device) + _moves(u[:, 1], height)).clamp(0, height - 1)
    cols = (torch.arange(width, device=x.device) + _moves(u[:, 2], width)).clamp(0, width - 1)
    cols = torch.where(u[:, :1] < 0.5, cols, width - 1 - cols)
    images = torch.arange(b, device=x.device)[:, None, None]
    moved = x.movedim(1, -1)[images, rows[:, :, None], cols[:, None, :]].movedim(-1, 1)
    brightness = (DIMMEST + (BRIGHTEST - DIMMEST) * u[:, 3]).to(x.dtype)[:, None, None, None]
    return ((moved + 1) * brightness - 1).clamp_max(1)


def _moves(u: Float[Tensor, " b"], side: int) -> Int[Tensor, "b 1"]:
    """Whole pixels, each from -furthest to furthest equally likely."""
    furthest = round(side * SHIFT)
    return (u * (2 * furthest + 1)).long()[:, None] - furthest
