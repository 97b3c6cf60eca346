import numpy as np
import pytest
import torch

from patronus_pl.prototypes import random_views

SAME = [0.2, 0.5, 0.5, 2 / 3]
"""Not mirrored, not moved, as bright as it was."""


def pictures(n: int, channels: int = 3, height: int = 32, width: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, channels, height, width, generator=generator, dtype=torch.float64) * 2 - 1


def test_a_view_is_numpys_mirror_move_and_brightness() -> None:
    x = pictures(3)
    u = torch.tensor([SAME, [0.7, 0.0, 0.99, 2 / 3], [0.1, 0.99, 0.0, 0.0]], dtype=torch.float64)
    found = random_views(x, u).numpy()
    np.testing.assert_allclose(found[0], x[0])
    # Two of 32 rows and three of 48 columns are a sixteenth; mirrored, then moved, with the border repeated.
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (3, 3)), mode="edge")
    np.testing.assert_allclose(found[1], padded[1, ..., ::-1][:, :32, 6:])
    np.testing.assert_allclose((found[2] + 1) / 2, 0.6 * (padded[2, :, 4:, :48] + 1) / 2)


def test_every_move_is_as_likely_and_nothing_is_brighter_than_white() -> None:
    x = torch.full((10_000, 1, 32, 32), -1.0, dtype=torch.float64)
    x[:, :, 10, 16] = 1.0
    views = random_views(x, torch.rand(10_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert views.min() == -1
    assert views.max() == 1
    rows, counts = views.flatten(1).argmax(1).div(32, rounding_mode="floor").unique(return_counts=True)
    assert rows.tolist() == [8, 9, 10, 11, 12]
    assert counts.tolist() == pytest.approx([2000] * 5, abs=5 * (10_000 * 0.2 * 0.8) ** 0.5)
    # Brightness 0.6 to 1.2: a third of the views is cut off at white, and the others are even from 0.6 up.
    brightest = (views.amax((1, 2, 3)) + 1) / 2
    assert (brightest == 1).double().mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert brightest[brightest < 1].mean().item() == pytest.approx(0.8, abs=0.01)
