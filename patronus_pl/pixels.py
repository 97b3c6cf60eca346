"""Convert images between bytes 0..255, as files hold them, and floats in [-1, 1], as the model sees them."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def as_floats(images: Float[Tensor, "*n c h w"] | UInt8[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """Return images as floats in [-1, 1]: x = bytes / 127.5 - 1. Floats are returned as they are.

    >>> as_floats(torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)).flatten()
    tensor([-1.,  1.])
    """
    return images if images.is_floating_point() else images.float().div_(127.5).sub_(1.0)


def as_bytes(images: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n c h w"]:
    """Return images in [-1, 1] as bytes: round((clip(x, -1, 1) + 1) · 127.5).

    Rounding keeps the mean; truncation would darken every image by half a grey level.

    >>> as_bytes(torch.tensor([-1.0, 0.999, 3.0]).reshape(1, 1, 1, 3)).flatten()
    tensor([  0, 255, 255], dtype=torch.uint8)
    """
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
