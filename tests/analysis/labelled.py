"""Pictures of four attributes, for the painter: a quarter each, light where the attribute is there."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from patronus_pl.analysis.subject import Subject
from tests.analysis.painter import paint

NAMES = ("hat", "smile", "scarf", "beard")
LEVEL = 0.4
"""Grey levels are ±LEVEL, and a little noise."""


def subject(n: int = 1000, agree: float = 0.5, seed: int = 0, names: Sequence[str] = NAMES) -> Subject:
    """Smile and hat agree on a share of the images, φ = 2 · agree − 1; the others go their own ways."""
    rng = np.random.default_rng(seed)
    y = rng.random((n, 4)) < 0.5
    y[:, 1] = np.where(rng.random(n) < agree, y[:, 0], ~y[:, 0])
    level = LEVEL * (2.0 * y - 1) + 0.05 * rng.standard_normal((n, 4))
    pixels = paint(torch.from_numpy(level).float()).add(1).mul(127.5).round().to(torch.uint8).numpy()
    return Subject(pixels, y.astype(np.float32), [f"image {i}" for i in range(n)], tuple(names))


def judge(images: Tensor) -> Tensor:
    """Linear in each quarter's grey level over a range so wide that nothing is cut off."""
    return (images.reshape(-1, 2, 4, 2, 4).mean((2, 4)).flatten(1) / 4 + 0.5).clamp(0, 1)


def leaking(of: int, into: int, share: float) -> Tensor:
    """Mixing by which asking for one quarter also gives a share of it in another."""
    mixing = torch.eye(4)
    mixing[into, of] = share
    return mixing
