"""`PatchEncoder`: a small convolutional network whose output positions are image patches."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.prototypes.receptive_field import ReceptiveField
from patronus_pl.types import Features, Image


class PatchEncoder(nn.Module):
    """Convolutions without normalisation, so that each output vector depends on its receptive field alone.

    f: (b, c, h, w) in [-1, 1] → (b, D, rows, cols); D is the last entry of `channels` (Weng et al. 2026).

    Args:
        channels: channels of the image, then after every layer; the paper has (c, 32, 64, 64, 128).
        kernel_sizes: size of the kernel of each layer.
        strides: stride of each layer.
        paddings: padding of each layer.
        init: `he` (He et al. 2015, keeps the variance through ReLUs); `centred`, the same with kernels that fade
            towards their edges, so that what a prototype is about tends to lie in the middle of its patch; or `normal`
            (weights N(0, 0.1²), the paper's).
        last_relu: whether a ReLU follows the last convolution too, as in the paper.

    Raises:
        InvalidOptionError: lists of different length.
    """

    def __init__(
        self,
        channels: Sequence[int] = (3, 32, 64, 64, 128),
        kernel_sizes: Sequence[int] = (3, 3, 3, 3),
        strides: Sequence[int] = (2, 1, 1, 1),
        paddings: Sequence[int] = (1, 0, 0, 0),
        init: Literal["he", "centred", "normal"] = "he",
        last_relu: bool = True,
    ) -> None:
        super().__init__()
        layers = len(channels) - 1
        if not layers == len(kernel_sizes) == len(strides) == len(paddings) or layers < 1:
            raise InvalidOptionError(
                f"encoder: {len(channels)} channels ask for {layers} layers, but there are {len(kernel_sizes)} kernel "
                f"sizes, {len(strides)} strides and {len(paddings)} paddings; give one of each a layer"
            )
        self.channels, self.kernel_sizes = tuple(channels), tuple(kernel_sizes)
        self.strides, self.paddings = tuple(strides), tuple(paddings)
        self.init, self.last_relu, self.dim = init, last_relu, channels[-1]
        self.receptive_field = ReceptiveField.of(kernel_sizes, strides, paddings)
        convolutions = [
            nn.Conv2d(channels[i], channels[i + 1], kernel_sizes[i], strides[i], paddings[i]) for i in range(layers)
        ]
        for convolution in convolutions:
            _initialise(convolution, init)
        self.layers = nn.ModuleList(convolutions)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the output for an image of the given size.

        Raises:
            InvalidOptionError: the image is smaller than what the layers need.
        """
        rows, cols = height, width
        for k, s, p in zip(self.kernel_sizes, self.strides, self.paddings, strict=True):
            rows, cols = ((n + 2 * p - k) // s + 1 if n + 2 * p >= k else 0 for n in (rows, cols))
        if rows < 1 or cols < 1:
            raise InvalidOptionError(
                f"image of {height}x{width} pixels is smaller than the encoder's receptive field of "
                f"{self.receptive_field.size} pixels; enlarge data.image_size or use fewer encoder layers"
            )
        return rows, cols

    def require(self, image: Image) -> None:
        """Refuse images of another number of channels, or too small for a single patch.

        Raises:
            CheckpointError: another number of channels.
            InvalidOptionError: the image is smaller than what the layers need.
        """
        if image.shape[1] != self.channels[0]:
            raise CheckpointError(
                f"the checkpoint was trained on images of {self.channels[0]} channel(s), but these have "
                f"{image.shape[1]}; use data with as many channels"
            )
        self.map_size(*image.shape[-2:])

    def forward(self, image: Image) -> Features:
        """Return the feature vector of every patch."""
        x = image
        for i, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if i < len(self.layers) or self.last_relu:
                x = torch.relu(x)
        return x


def _initialise(convolution: nn.Conv2d, init: str) -> None:
    if init == "normal":
        nn.init.normal_(convolution.weight, 0.0, 0.1)
    else:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if init == "centred":
        window = torch.outer(*(_ramp(size) for size in convolution.kernel_size))
        convolution.weight.data *= window / window.square().mean().sqrt()
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def _ramp(size: int) -> Tensor:
    """Return numbers that are 1 in the middle and fall evenly to 0 one step outside."""
    middle = (size - 1) / 2
    return 1 - (torch.arange(size) - middle).abs() / (middle + 1)
