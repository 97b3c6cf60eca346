"""`ReceptiveField`: which pixels a position of the encoder's output sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from patronus_pl.types import Box


@dataclass(frozen=True)
class ReceptiveField:
    """Geometry of a stack of convolutions, the same along rows and columns.

    Output position u sees the pixels [offset + u * jump, offset + u * jump + size) before clipping to the image.

    Attributes:
        size: width of the window in pixels.
        jump: pixels between two neighbouring windows.
        offset: first pixel of the first window; negative where padding lets it hang over the edge.
    """

    size: int
    jump: int
    offset: int

    @classmethod
    def of(cls, kernel_sizes: Sequence[int], strides: Sequence[int], paddings: Sequence[int]) -> "ReceptiveField":
        """Compose the layers from input to output.

        A layer of kernel k, stride s and padding p on top of (size r, jump j, offset o) gives
        r' = r + (k - 1) j,   j' = s j,   o' = o - p j   (Araujo et al., "Computing Receptive Fields of CNNs", 2019).
        """
        size, jump, offset = 1, 1, 0
        for kernel, stride, padding in zip(kernel_sizes, strides, paddings, strict=True):
            size, offset, jump = size + (kernel - 1) * jump, offset - padding * jump, jump * stride
        return cls(size, jump, offset)

    def box(self, row: int, col: int, height: int, width: int) -> Box:
        """Return the pixels that output position (row, col) sees: (top, left, bottom, right).

        The box is clipped to the image; bottom and right are exclusive.
        """
        top, left = self.offset + row * self.jump, self.offset + col * self.jump
        return max(top, 0), max(left, 0), min(top + self.size, height), min(left + self.size, width)

    def centre(self, index: float) -> float:
        """Return the middle of the window of output position `index`, in pixels (pixel k covers [k, k + 1))."""
        return self.offset + index * self.jump + self.size / 2

    def middle(self) -> "ReceptiveField":
        """Return the field of the middles of all windows: a third of the width, rounded down, is cut from each side."""
        margin = self.size // 3
        return ReceptiveField(self.size - 2 * margin, self.jump, self.offset + margin)


def patch_means(
    values: Float[Tensor, "b height width"], field: ReceptiveField, patches: tuple[int, int]
) -> Float[Tensor, "b rows cols"]:
    """Return the mean over the window of every patch; what hangs over the edge of the image counts as 0."""
    around = max(field.size, -field.offset)  # padding may put a window, or its middle, outside the image altogether
    # Entry i of the pooled map is the window that starts at pixel i - around.
    pooled = F.avg_pool2d(F.pad(values[:, None], [around] * 4), field.size, stride=1)[:, 0]
    rows, cols = (around + field.offset + field.jump * torch.arange(n, device=values.device) for n in patches)
    return pooled[:, rows][:, :, cols]


def middle_means(
    values: Float[Tensor, "b height width"], field: ReceptiveField, patches: tuple[int, int]
) -> Float[Tensor, "b rows cols"]:
    """Return the mean over the middle of every patch, weighted by a tent: the centre counts most."""
    middle = field.middle()
    first, second = (middle.size + 1) // 2, middle.size // 2 + 1  # a tent is a box of boxes
    boxes = F.avg_pool2d(F.pad(values[:, None], [first - 1] * 4), first, stride=1)[:, 0]
    return patch_means(boxes, ReceptiveField(second, field.jump, middle.offset + first - 1), patches)
