"""A small classifier: it judges pictures, and its features stand in where Inception knows nothing of the images."""

from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from patronus_pl.errors import CorruptFileError
from patronus_pl.metrics.features import WeightsNotFoundError, load_weights
from patronus_pl.types import Image


class SmallCNN(nn.Module):
    """Four strided convolutions, the mean and the maximum over places, one linear layer: scores (b, a).

    Args:
        channels: of the images.
        attributes: a.
        largest: images are shrunk to at most so many pixels a side.
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
        """What the last layer sees."""
        longest = max(images.shape[-2:])
        if longest > self.largest:
            size = [max(1, side * self.largest // longest) for side in images.shape[-2:]]
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        maps = self.features(images)
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)

    def logits(self, images: Image) -> Float[Tensor, "b a"]:
        """Log odds of each attribute."""
        logits: Tensor = self.last(self.pooled(images))
        return logits

    @torch.no_grad()
    def forward(self, images: Image) -> Float[Tensor, "b a"]:
        """Probabilities."""
        return self.logits(images.to(self.last.weight.device)).sigmoid()


class ClassifierFeatures(nn.Module):
    """A feature network for Fréchet distances: the pooled features of a `SmallCNN` that was trained on labels.

    Distances on it see what tells the classes apart. They are no FID, and comparable with the same weights only.

    Args:
        path: file of its weights, as `benchmarks/fashion_features.py` writes them.

    Raises:
        WeightsNotFoundError: no such file.
        CorruptFileError: the file holds no weights of a `SmallCNN`.
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
        """Images (b, c, h, w) in [-1, 1] → features (b, 192)."""
        return self.network.pooled(images.float())

    def train(self, mode: bool = True) -> "ClassifierFeatures":
        """Stays in evaluation mode: batch statistics would change the features."""
        return super().train(False)
