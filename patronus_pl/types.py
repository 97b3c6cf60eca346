"""The shapes that cross module boundaries, named once.

Images are floats in [-1, 1] inside the model and uint8 at the edges (files, caches, batches on the way to the device).
"""

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Image = Float[Tensor, "b c h w"]
"""Images, values in [-1, 1]."""
ImageBytes = UInt8[Tensor, "b c h w"]
"""Images as stored, values 0..255."""
Features = Float[Tensor, "b d rows cols"]
"""Encoder output: one D-dimensional vector a patch."""
Activations = Float[Tensor, "b m"]
"""s: how strongly each of m prototypes is present in each image."""
SimilarityMap = Float[Tensor, "b m rows cols"]
"""Similarity of each patch to each prototype."""
Timesteps = Int[Tensor, " b"]
"""Diffusion steps, 0..T-1."""
Attributes = Float[Tensor, "b a"]
"""0 or 1 an attribute; NaN where it is unknown."""
Masks = Bool[Tensor, "b parts h w"]
"""Which pixels each named part covers."""
Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels, bottom and right exclusive."""


def at_least_float32(x: Tensor) -> Tensor:
    """What bfloat16 cannot hold, in float32; float64 (`--trainer.precision 64-true`) stays what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
