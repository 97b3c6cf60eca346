"""Feature networks: they turn images into the vectors that Fréchet and kernel distances compare.

A feature network is any `nn.Module` that maps images (b, c, h, w) in [-1, 1] to floats (b, num_features) and has the
attribute `num_features`. A configuration names its class by `class_path`.
"""

import hashlib
from collections.abc import Iterable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patronus_pl.errors import CorruptFileError
from patronus_pl.metrics.weights import load_weights, weights_file
from patronus_pl.pixels import as_bytes
from patronus_pl.types import Image


class InceptionFeatures(nn.Module):
    """The network of the FID: 2048 pooled features of torch-fidelity's Inception v3 (TensorFlow's weights of 2015).

    Images are rounded to 0..255 and resized to 299×299 as TensorFlow 1 did, so that distances equal torch-fidelity's.
    One channel is repeated to three. The network always stays in evaluation mode and float32.

    Args:
        feature_extractor_weights_path: file `weights-inception-2015-12-05-6726825d.pth`; None downloads it once into
            PyTorch's hub folder.

    Raises:
        WeightsNotFoundError: there is no such file, and it cannot be downloaded.
        CorruptFileError: the file does not hold these weights.

    Example:
        >>> InceptionFeatures("no/such/file.pth")
        Traceback (most recent call last):
            ...
        patronus_pl.metrics.weights.WeightsNotFoundError: Inception v3 for the FID: no file 'no/such/file.pth'; ...
    """

    num_features = 2048

    def __init__(self, feature_extractor_weights_path: str | None = None) -> None:
        super().__init__()
        # torch-fidelity is imported only here: it takes a second, and most commands need no Inception.
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

        path = weights_file("Inception v3 for the FID", URL_INCEPTION_V3, feature_extractor_weights_path)
        load_weights(path)  # torch-fidelity unpickles freely; a file that loads here holds tensors only
        try:
            self.inception = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
        except RuntimeError as error:
            raise CorruptFileError(
                f"{path} does not hold torch-fidelity's Inception v3 weights; download it again"
            ) from error

    def forward(self, images: Image) -> Float[Tensor, "b 2048"]:
        """Return the features of images in [-1, 1], shape (b, 1 or 3, h, w), as (b, 2048)."""
        pixels = as_bytes(images.float())
        features: Tensor = self.inception(pixels.expand(-1, 3, -1, -1))[0]
        return features

    def logits(self, features: Float[Tensor, "b 2048"]) -> Float[Tensor, "b 1008"]:
        """Return class logits without their bias, as the Inception score takes them, shape (b, 1008)."""
        weight: Tensor = self.inception.fc.weight
        return features @ weight.T.to(features)

    def train(self, mode: bool = True) -> "InceptionFeatures":
        """Stay in evaluation mode: batch statistics would change the features."""
        return super().train(False)


class RandomFeatures(nn.Module):
    """A small convolutional network with fixed random weights, which needs no download and no labels.

    Random embeddings rank image sets usefully (Naeem et al. 2020, arXiv 2002.09797), but their distances cannot be
    compared with an FID: compare them only with values of the same network.

    Args:
        channels: number of channels of the images.
        width: channels of the first layer; features are the mean and deviation of each channel of three layers.
        seed: seed of the weights.

    Example:
        >>> import torch
        >>> RandomFeatures(channels=1, width=4)(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 56])
    """

    def __init__(self, channels: int = 3, width: int = 32, seed: int = 0) -> None:
        super().__init__()
        sizes = [channels, width, 2 * width, 4 * width]
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1, bias=False) for i, o in pairwise(sizes))
        self.num_features = 2 * sum(sizes[1:])
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.kaiming_normal_(parameter.requires_grad_(False), generator=generator)

    def forward(self, images: Image) -> Float[Tensor, "b d"]:
        """Return the features of images in [-1, 1], shape (b, c, h, w), as (b, num_features)."""
        pooled, x = [], images.float()
        for layer in self.layers:
            x = layer(x).relu()
            pooled += [x.mean((-2, -1)), x.std((-2, -1), correction=0)]
        return torch.cat(pooled, dim=1)


def distance_name(network: nn.Module) -> str:
    """Return `FID` for Inception's features, else `Frechet distance (<class name>)`: no other distance is an FID.

    Example:
        >>> distance_name(RandomFeatures())
        'Frechet distance (RandomFeatures)'
    """
    return "FID" if isinstance(network, InceptionFeatures) else f"Frechet distance ({type(network).__name__})"


@torch.no_grad()
def extract_features(network: nn.Module, images: Iterable[Tensor]) -> Float[Tensor, "n d"]:
    """Return the features of all images, computed in float32 (never under autocast) and gathered on the CPU.

    Args:
        network: feature network.
        images: batches in [-1, 1], each (b, c, h, w).

    Example:
        >>> import torch
        >>> extract_features(RandomFeatures(width=4), torch.zeros(10, 3, 8, 8).split(4)).shape
        torch.Size([10, 56])
    """
    features = []
    for batch in images:
        with torch.autocast(batch.device.type, enabled=False):
            features.append(network(batch.float()).float().cpu())
    return torch.cat(features)


def network_hash(network: nn.Module) -> str:
    """Return 16 hexadecimal digits that change with the class and the weights of a network.

    Example:
        >>> network_hash(RandomFeatures(seed=0)) == network_hash(RandomFeatures(seed=1))
        False
    """
    digest = hashlib.sha256(f"{type(network).__module__}.{type(network).__qualname__}".encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
