"""A small classifier of attributes, whose features also serve Fréchet distances on images unlike photographs."""

from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from patronus_pl.errors import CorruptFileError
from patronus_pl.metrics.weights import WeightsNotFoundError, load_weights
from patronus_pl.types import Image


class SmallCNN(nn.Module):
    """A network of four convolutions, the mean and the maximum over places, and one linear layer.

    Args:
        channels: number of channels of the images.
        attributes: a, the number of scores.
        largest: images are shrunk to at most this many pixels a side, which bounds the time.

    Example:
        >>> import torch
        >>> SmallCNN(channels=3, attributes=2)(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 2])
    """

    num_features = 192

    def __init__(self, channels: int, attributes: int, largest: int = 64) -> None:
        super().__init__()
        self.largest = largest
        widths = (channels, 24, 48, 96, self.num_features // 2)
        layers: list[nn.Module] = []
        for stage, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, 2 if stage else 1, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.features, self.last = nn.Sequential(*layers), nn.Linear(self.num_features, attributes)

    def pooled(self, images: Image) -> Float[Tensor, "b 192"]:
        """Return the features that the last layer sees, shape (b, 192)."""
        longest = max(images.shape[-2:])
        if longest > self.largest:
            size = [max(1, side * self.largest // longest) for side in images.shape[-2:]]
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        maps = self.features(images)
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)

    def logits(self, images: Image) -> Float[Tensor, "b a"]:
        """Return the log odds of each attribute, shape (b, a)."""
        logits: Tensor = self.last(self.pooled(images))
        return logits

    @torch.no_grad()
    def forward(self, images: Image) -> Float[Tensor, "b a"]:
        """Return the probability of each attribute, shape (b, a)."""
        return self.logits(images.to(self.last.weight.device)).sigmoid()


class ClassifierFeatures(nn.Module):
    """A feature network for Fréchet distances: the pooled features of a `SmallCNN` that was trained on labels.

    Its distances see what tells the classes apart. They are no FID, and can be compared with the same weights only.

    Args:
        path: file of the weights, as `benchmarks/fashion_features.py` writes it.

    Raises:
        WeightsNotFoundError: there is no such file.
        CorruptFileError: the file does not hold the weights of a `SmallCNN`.

    Example:
        >>> import tempfile
        >>> import torch
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     torch.save(SmallCNN(channels=1, attributes=10).state_dict(), file.name)
        ...     network = ClassifierFeatures(file.name)
        >>> network(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 192])
    """

    num_features = SmallCNN.num_features

    def __init__(self, path: str) -> None:
        super().__init__()
        if not Path(path).is_file():
            raise WeightsNotFoundError(f"no weights at {path!r}; benchmarks/fashion_features.py makes one")
        state = load_weights(Path(path))
        try:
            self.network = SmallCNN(state["features.0.weight"].shape[1], len(state["last.bias"]))
            self.network.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise CorruptFileError(
                f"{path} does not hold the weights of a SmallCNN; make it with benchmarks/fashion_features.py"
            ) from error
        self.network.eval().requires_grad_(False)

    def forward(self, images: Image) -> Float[Tensor, "b 192"]:
        """Return the features of images in [-1, 1], shape (b, c, h, w), as (b, 192)."""
        return self.network.pooled(images.float())

    def train(self, mode: bool = True) -> "ClassifierFeatures":
        """Stay in evaluation mode: batch statistics would change the features."""
        return super().train(False)
