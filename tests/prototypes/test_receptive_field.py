from collections.abc import Sequence

import numpy as np
import pytest
import torch

from patronus_pl.prototypes import PatchEncoder, ReceptiveField, middle_means, patch_means
from patronus_pl.types import Box

PAPER = ((3, 3, 3, 3), (2, 1, 1, 1), (1, 0, 0, 0))
LARGE = ((5, 5, 5, 5, 5), (2, 2, 1, 1, 1), (1, 1, 0, 0, 0))
PADDED = ((3, 5, 2), (1, 2, 1), (1, 2, 1))
SINGLE = ((7,), (3,), (3,))


def seen(kernels: Sequence[int], strides: Sequence[int], paddings: Sequence[int], size: Box) -> tuple[np.ndarray, Box]:
    """Pixels on which output (row, col) depends, by automatic differentiation, in an image of (height, width)."""
    row, col, height, width = size
    encoder = PatchEncoder([1] * (len(kernels) + 1), kernels, strides, paddings).double()
    for parameter in encoder.parameters():
        parameter.data.abs_().add_(0.1)  # positive throughout: no ReLU and no cancellation hides a path
    image = torch.rand(1, 1, height, width, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(image)[0, 0, row, col], image)
    return (gradient[0, 0] != 0).numpy(), encoder.receptive_field.box(row, col, height, width)


def corners(size: tuple[int, int], geometry: tuple[tuple[int, ...], ...]) -> list[tuple[int, int]]:
    rows, cols = PatchEncoder([1] * (len(geometry[0]) + 1), *geometry).map_size(*size)
    return sorted({(r, c) for r in (0, 1, rows // 2, rows - 1) for c in (0, cols // 3, cols - 1) if r < rows})


@pytest.mark.parametrize(
    ("geometry", "size"),
    [
        (PAPER, (32, 32)),
        (PAPER, (29, 35)),
        (PAPER, (13, 64)),
        (LARGE, (224, 224)),
        (PADDED, (20, 11)),
        (SINGLE, (23, 9)),
    ],
)
def test_box_is_what_the_gradient_reaches(geometry: tuple[tuple[int, ...], ...], size: tuple[int, int]) -> None:
    for row, col in corners(size, geometry):
        reached, (top, left, bottom, right) = seen(*geometry, (row, col, *size))
        expected = np.zeros(size, bool)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(reached, expected, err_msg=f"output ({row}, {col})")


def test_published_sizes() -> None:
    paper, large = ReceptiveField.of(*PAPER), ReceptiveField.of(*LARGE)
    assert (paper.size, paper.jump) == (15, 2)
    assert (large.size, large.jump) == (61, 4)


def test_centre_is_the_middle_of_the_window() -> None:
    field = ReceptiveField.of(*PAPER)
    top, left, bottom, right = field.box(5, 3, 64, 64)
    assert (field.centre(5), field.centre(3)) == ((top + bottom) / 2, (left + right) / 2)
    assert field.centre(0.5) == (field.centre(0) + field.centre(1)) / 2


def test_patch_means_by_brute_force() -> None:
    field = ReceptiveField.of((3, 3), (2, 1), (1, 0))
    values = torch.rand(2, 12, 9, generator=torch.Generator().manual_seed(0))
    rows, cols = PatchEncoder((1, 1, 1), (3, 3), (2, 1), (1, 0)).map_size(12, 9)
    found = patch_means(values, field, (rows, cols))
    assert found.shape == (2, rows, cols)
    for row in range(rows):
        for col in range(cols):
            top, left, bottom, right = field.box(row, col, 12, 9)
            expected = values[:, top:bottom, left:right].sum((1, 2)) / field.size**2
            torch.testing.assert_close(found[:, row, col], expected)


@pytest.mark.parametrize(("size", "inner"), [(1, 1), (3, 1), (4, 2), (7, 3), (9, 3), (16, 6)])
def test_the_middle_of_a_window_has_its_centre(size: int, inner: int) -> None:
    field = ReceptiveField(size, jump=2, offset=-3)
    middle = field.middle()
    assert (middle.size, middle.jump) == (inner, 2)
    assert [middle.centre(k) for k in range(4)] == [field.centre(k) for k in range(4)]


@pytest.mark.parametrize(
    ("kernels", "tent"), [((2, 2), (1, 1)), ((3, 3), (1, 2, 1)), ((4, 4), (1, 2, 2, 1)), ((7, 5), (1, 2, 3, 2, 1))]
)
def test_what_lies_at_the_centre_of_a_patch_counts_most(kernels: tuple[int, int], tent: tuple[int, ...]) -> None:
    field = ReceptiveField.of(kernels, (2, 1), (4, 1))  # some windows hang over the edge
    values = torch.rand(2, 21, 18, generator=torch.Generator().manual_seed(0))
    found = middle_means(values, field, (11, 9))
    weights = torch.outer(torch.tensor(tent), torch.tensor(tent)) / sum(tent) ** 2
    around = torch.nn.functional.pad(values, [30] * 4)
    for row, col in np.ndindex(11, 9):
        top, left = (int(30 + field.centre(k) - len(tent) / 2) for k in (row, col))
        expected = (around[:, top : top + len(tent), left : left + len(tent)] * weights).sum((1, 2))
        torch.testing.assert_close(found[:, row, col], expected)
