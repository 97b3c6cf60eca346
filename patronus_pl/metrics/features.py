"""Feature networks: what turns images into the vectors that Fréchet and kernel distances compare.

The contract of a feature network: an `nn.Module` that maps images (b, c, h, w) in [-1, 1] to (b, num_features) floats,
and has the attribute `num_features`. A configuration names any such class by `class_path`.
"""

import hashlib
import json
import os
import pickle
import re
import socket
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from patronus_pl.errors import CorruptFileError, OutputError, PatronusError
from patronus_pl.files import replacing
from patronus_pl.pixels import as_bytes
from patronus_pl.types import Image


class WeightsNotFoundError(PatronusError):
    """Pretrained weights are neither at the given path nor to be downloaded."""


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of torch-fidelity's Inception v3 (TensorFlow's weights of 2015): the network of the FID.

    Images are rounded to 0..255 and resized to 299×299 as TensorFlow 1 did, so that distances equal torch-fidelity's.
    One channel is repeated to three. Always in evaluation mode and float32.

    Args:
        feature_extractor_weights_path: file `weights-inception-2015-12-05-6726825d.pth`; None downloads it once into
            PyTorch's hub folder.

    Raises:
        WeightsNotFoundError: no such file, or no network.
        CorruptFileError: the file holds no such weights.
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
        """Images (b, 1 or 3, h, w) in [-1, 1] → features (b, 2048)."""
        pixels = as_bytes(images.float())
        features: Tensor = self.inception(pixels.expand(-1, 3, -1, -1))[0]
        return features

    def logits(self, features: Float[Tensor, "b 2048"]) -> Float[Tensor, "b 1008"]:
        """Class logits without bias, as the Inception score takes them."""
        weight: Tensor = self.inception.fc.weight
        return features @ weight.T.to(features)

    def train(self, mode: bool = True) -> "InceptionFeatures":
        """Stays in evaluation mode: batch statistics would change the features."""
        return super().train(False)


class RandomFeatures(nn.Module):
    """A small convolutional network with fixed random weights: needs no download and no labels, the same everywhere.

    Random embeddings rank image sets usefully (Naeem et al. 2020, arXiv 2002.09797), but a value says nothing beside an
    FID: compare it only with values of the same network.

    Args:
        channels: of the images.
        width: channels of the first layer; features are the mean and deviation of each channel of three layers.
        seed: of the weights.
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
        """Images (b, c, h, w) in [-1, 1] → features (b, num_features)."""
        pooled, x = [], images.float()
        for layer in self.layers:
            x = layer(x).relu()
            pooled += [x.mean((-2, -1)), x.std((-2, -1), correction=0)]
        return torch.cat(pooled, dim=1)


def distance_name(network: nn.Module) -> str:
    """`FID` for Inception's 2048 features, else `Frechet distance (<class name>)`: only the former is an FID."""
    return "FID" if isinstance(network, InceptionFeatures) else f"Frechet distance ({type(network).__name__})"


@torch.no_grad()
def extract_features(network: nn.Module, images: Iterable[Tensor]) -> Float[Tensor, "n d"]:
    """Features of batches of images in [-1, 1], in float32 (never under autocast), gathered on the CPU."""
    features = []
    for batch in images:
        with torch.autocast(batch.device.type, enabled=False):
            features.append(network(batch.float()).float().cpu())
    return torch.cat(features)


def network_hash(network: nn.Module) -> str:
    """16 hex digits of the network's class and weights: part of every cache key and protocol."""
    digest = hashlib.sha256(f"{type(network).__module__}.{type(network).__qualname__}".encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def cached_arrays(
    folder: str | os.PathLike[str], key: Mapping[str, Any], compute: Callable[[], Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """What `compute` returns, computed once a key and kept as one `.npz`: features or statistics of real images.

    Args:
        folder: where the files live; made when missing.
        key: everything that decides the result (data, preprocessing, `network_hash`), as JSON values.
        compute: called when no complete file for this key exists.

    Raises:
        OutputError: the folder cannot be written.
    """
    text = json.dumps(key, sort_keys=True)
    path = Path(folder) / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    # A file that some other program broke is computed again: a cache must never stop a run.
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), open(path, "rb") as file:
        stored = np.load(file)
        if str(stored["key"]) == text:
            return {name: stored[name] for name in stored.files if name != "key"}
    arrays = dict(compute())
    remedy = "choose another cache folder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r} ({error.strerror}); {remedy}") from error
    with replacing(path, remedy) as file:
        np.savez(file, key=np.array(text), **arrays)  # type: ignore[arg-type]  # none is named `allow_pickle`
    return arrays


def weights_file(what: str, url: str, path: str | None = None, timeout: float = 10.0) -> Path:
    """The file of pretrained weights: the given one, the one in PyTorch's hub folder, or a fresh download to there.

    Args:
        what: named in the message.
        url: whose file name carries the start of its SHA-256, as PyTorch's do.
        path: of a file that exists; None looks in the hub folder and downloads.
        timeout: seconds without an answer after which the download is given up.

    Raises:
        WeightsNotFoundError: there is no such file, or the download failed.
    """
    if path is not None:
        if not Path(path).expanduser().is_file():
            raise WeightsNotFoundError(f"{what}: no file {path!r}; download {url} and give its path")
        return Path(path).expanduser()
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not target.is_file():
        _download(what, url, target, timeout)
    return target


def _download(what: str, url: str, target: Path, timeout: float) -> None:
    prefix = re.search(r"-([0-9a-f]{8,})\.", target.name)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)  # torch.hub sets none, and a silent network would hang the run
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), prefix.group(1) if prefix else None)
    except (OSError, RuntimeError) as error:
        raise WeightsNotFoundError(
            f"{what}: cannot download {url} ({error}); copy the file to {target} or give its path"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def load_weights(path: Path) -> dict[str, Shaped[Tensor, "..."]]:
    """A state dict from a file that may hold tensors only, never code.

    Raises:
        CorruptFileError: the file is truncated, no state dict, or holds more than tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickle protocols: the error that follows says it all
            state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise CorruptFileError(
            f"{path} holds no plain weights ({str(error).splitlines()[0]}); download it again"
        ) from error
    if not isinstance(state, dict):
        raise CorruptFileError(f"{path} holds a {type(state).__name__}, not a state dict; download it again")
    return state
