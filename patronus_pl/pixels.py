"""The one place that turns bytes into floats in [-1, 1], and back."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def as_floats(images: Float[Tensor, "*n c h w"] | UInt8[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """Images in [-1, 1], be they bytes or floats already."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1


def as_bytes(images: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n c h w"]:
    """Images in [-1, 1] as bytes, rounded."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
