"""Photograph planted faces: uneven light, texture, blur and noise, so that no surface is flat.

With X and Y from −1 at the left and the top to 1, value noises τ of 5 and 11 cells a side, and a picture x in 0..255,

    light:   x ← x · (1 + a X + b Y),            |a|, |b| ≤ LIGHT
    texture: x ← x · (1 + TEXTURE (τ₅ + τ₁₁)),
    blur:    x ← x + β (left + right − 2x), the same down,   0 ≤ β ≤ BLUR, once for every 32 pixels of the size
    noise:   x ← x + σ n,                        |n| ≤ 1, triangular,  σ ≤ NOISE levels.

Only +, −, ×, ÷ are used, in a fixed order, so that the same photograph has the same bytes on every machine.
"""

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.planted_attributes import random_bits
from patronus_pl.data.portraits import POSED_SHIFT, POSED_TURN, POSED_ZOOM, Pose
from patronus_pl.data.shapes import Array

LIGHT, SCENE, TEXTURE, BLUR, NOISE = 0.28, 0.3, 0.06, 0.15, 16.0
SCENE_CELLS, COARSE, FINE = 4, 5, 11
NUMBERS = 4 + 4 + 3 * (SCENE_CELLS + 1) ** 2 + (COARSE + 1) ** 2 + (FINE + 1) ** 2
"""Random numbers that a photograph needs, noise apart."""
NOISE_SEED = 0x5EED
"""Keeps the noise apart from the numbers that choose attributes."""


def pose(numbers: Array) -> Pose:
    """Return poses from random numbers in [-1, 1), (n, ≥ 4)."""
    low, high = POSED_ZOOM
    middle, spread = np.float32((low + high) / 2), np.float32((high - low) / 2)
    right, down = (numbers[:, i] * np.float32(POSED_SHIFT) for i in (0, 1))
    return Pose(right, down, middle + spread * numbers[:, 2], numbers[:, 3] * np.float32(POSED_TURN))


def scene(numbers: Array, size: int) -> Array:
    """Return factors on the background, (n, 3, size, size), 1 ± `SCENE`, from numbers in [-1, 1), (n, `NUMBERS`)."""
    cells = numbers[:, 8 : 8 + 3 * (SCENE_CELLS + 1) ** 2].reshape(len(numbers), 3, SCENE_CELLS + 1, SCENE_CELLS + 1)
    factors: Array = 1 + np.float32(SCENE) * smooth(cells, size)
    return factors


def smooth(lattice: Array, size: int) -> Array:
    """Interpolate values on a lattice (…, k+1, k+1) linearly to (…, size, size)."""
    k = lattice.shape[-1] - 1
    at = (np.arange(size) + 0.5) * (k / size)
    left = at.astype(np.int64)
    w = (at - left).astype(np.float32)
    rows = lattice[..., left, :] + w[:, None] * (lattice[..., left + 1, :] - lattice[..., left, :])
    between: Array = rows[..., left] + w * (rows[..., left + 1] - rows[..., left])
    return between


def lit(pixels: Array, numbers: Array) -> Array:
    """Return pictures under uneven light, textured and blurred.

    Args:
        pixels: (n, 3, size, size) in 0..255.
        numbers: (n, `NUMBERS`) random numbers in [-1, 1).
    """
    size = pixels.shape[-1]
    across = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
    a, b = (numbers[:, i, None, None] * np.float32(LIGHT) for i in (4, 5))
    coarse, fine = (COARSE + 1) ** 2, (FINE + 1) ** 2
    lattices = numbers[:, -coarse - fine : -fine], numbers[:, -fine:]
    texture = sum(
        smooth(grid.reshape(-1, k + 1, k + 1), size) for grid, k in zip(lattices, (COARSE, FINE), strict=True)
    )
    light = (1 + a * across + b * across[:, None]) * (1 + np.float32(TEXTURE) * texture)
    shown: Array = pixels * light[:, None]
    beta = ((numbers[:, 6] + 1) * np.float32(BLUR / 2))[:, None, None, None]
    for _ in range(max(1, size // 32)):
        shown = _blurred(shown, beta)
    return shown


def _blurred(pixels: Array, beta: Array) -> Array:
    """Return x + β (left + right − 2x), then the same down; the border is blurred in the other direction only."""
    across: Array = pixels.copy()
    across[..., 1:-1] += beta * (pixels[..., :-2] + pixels[..., 2:] - 2 * pixels[..., 1:-1])
    down: Array = across.copy()
    down[..., 1:-1, :] += beta * (across[..., :-2, :] + across[..., 2:, :] - 2 * across[..., 1:-1, :])
    return down


def grain(seed: int, indices: NDArray[np.uint64], numbers: Array, size: int) -> Array:
    """Return the noise of each photograph in levels, (n, 3, size, size), half of it common to the three channels."""
    bits = random_bits(seed ^ NOISE_SEED, indices, size * size).astype("<u8", copy=False).view("<u2")
    values = bits.reshape(len(indices), size, size, 4).astype(np.float32) * np.float32(2**-16)
    sigma = ((numbers[:, 7] + 1) * np.float32(NOISE / 2))[:, None, None, None]
    noise: Array = np.moveaxis(sigma * (values[..., :3] + values[..., 3:] - 1), 3, 1)
    return noise
