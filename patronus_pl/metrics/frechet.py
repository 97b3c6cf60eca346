"""Fréchet distance between a set of real and a set of generated images, from their features.

First pure functions on features (n, d), NumPy or torch; then `FrechetDistance`, whose sums add up over ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics.features import distance_name
from patronus_pl.types import Image

FeatureTable = Shaped[np.ndarray, "_ _"] | Shaped[Tensor, "_ _"]
"""One row an image: NumPy or torch, any float type."""


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of features, the Gaussian that a Fréchet distance compares, in float64.

    Attributes:
        n: number of images.
        mean: (d,).
        covariance: (d, d), divided by n − 1.

    Example:
        >>> import numpy as np
        >>> statistics = feature_statistics(np.array([[0.0, 1.0], [2.0, 1.0]]))
        >>> FeatureStatistics.from_arrays(statistics.to_arrays()).covariance
        tensor([[2., 0.],
                [0., 0.]], dtype=torch.float64)
    """

    n: int
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return named arrays, as `cached_arrays` keeps them."""
        return {"n": np.array(self.n), "mean": self.mean.cpu().numpy(), "covariance": self.covariance.cpu().numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "FeatureStatistics":
        """Build the statistics from the arrays of `to_arrays`."""
        return cls(int(arrays["n"]), torch.as_tensor(arrays["mean"]), torch.as_tensor(arrays["covariance"]))


def feature_statistics(features: FeatureTable) -> FeatureStatistics:
    """Return the mean and the covariance of features of at least two images.

    Args:
        features: shape (n, d), finite.

    Raises:
        InvalidOptionError: fewer than two images, or features that are not finite.

    Example:
        >>> import numpy as np
        >>> feature_statistics(np.array([[0.0, 1.0], [2.0, 1.0]])).mean
        tensor([1., 1.], dtype=torch.float64)
    """
    x = check_features(features)
    return FeatureStatistics(len(x), x.mean(dim=0), x.T.cov())


def statistics_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return the Fréchet distance of two Gaussians (Dowson & Landau 1982), in float64.

    d² = ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 tr (Σ_a^½ Σ_b Σ_a^½)^½

    Raises:
        InvalidOptionError: the two have different dimensions.

    Example:
        >>> import torch
        >>> a = FeatureStatistics(10, torch.zeros(2), torch.eye(2))
        >>> b = FeatureStatistics(10, torch.ones(2), torch.eye(2))
        >>> round(statistics_distance(a, b), 4)
        2.0
    """
    if a.mean.shape != b.mean.shape:
        raise InvalidOptionError(
            f"features of {len(a.mean)} and {len(b.mean)} dimensions; use one network for both sets"
        )
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float(distance.clamp(min=0))


def frechet_distance(features_a: FeatureTable, features_b: FeatureTable) -> float:
    """Return the Fréchet distance between two sets of features (Heusel et al. 2017), in float64; 0 for equal sets.

    It is an FID only for Inception's features (`distance_name`). Few images bias it upwards, so compare only distances
    of equally many images.

    Args:
        features_a: shape (n, d).
        features_b: shape (k, d).

    Raises:
        InvalidOptionError: fewer than two images, features that are not finite or of different dimensions.

    Example:
        >>> import numpy as np
        >>> features = np.random.default_rng(0).normal(size=(100, 4))
        >>> round(frechet_distance(features, features + 1), 6)
        4.0
    """
    return statistics_distance(feature_statistics(features_a), feature_statistics(features_b))


def check_features(features: FeatureTable) -> Float[Tensor, "n d"]:
    """Return features as a float64 tensor.

    Raises:
        InvalidOptionError: fewer than two images, or features that are not finite.
    """
    # A copy: PyTorch warns about memory maps and other read-only arrays, and takes no reversed ones.
    x = features.detach().double() if isinstance(features, Tensor) else torch.from_numpy(features.astype(np.float64))
    if len(x) < 2:
        raise InvalidOptionError(f"a set of {len(x)} images has no spread; give at least 2 of each")
    broken = (~x.isfinite().all(dim=1)).nonzero()
    if len(broken):
        raise InvalidOptionError(f"features: row {int(broken[0])} is not finite; check this image and the network")
    return x


class FrechetDistance(Metric):
    """Fréchet distance as a torchmetrics `Metric`: takes images, returns one number, and is exact over DDP ranks.

    Its states are n, Σf and Σffᵀ of both sets in float64, which add up over batches and ranks in any order. Features
    are computed in float32, outside autocast. Keep the metric in a callback: as an attribute of a module it would put
    the feature network into checkpoints and EMA.

    Args:
        network: feature network (see `patronus_pl.metrics.features`).

    Attributes:
        name: `FID` with Inception, else `Frechet distance (<network>)`.

    Example:
        >>> import torch
        >>> from patronus_pl.metrics import RandomFeatures
        >>> metric = FrechetDistance(RandomFeatures(width=2))
        >>> images = torch.rand(4, 3, 16, 16) * 2 - 1
        >>> metric.update(images, real=True)
        >>> metric.update(images, real=False)
        >>> bool(metric.compute() < 1e-6)
        True
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    real_n: Tensor
    real_sum: Tensor
    real_outer: Tensor
    generated_n: Tensor
    generated_sum: Tensor
    generated_outer: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        d = getattr(network, "num_features", None)
        if not isinstance(d, int):
            raise InvalidOptionError(
                f"{type(network).__name__} has no integer num_features; add it to the feature network"
            )
        self.network, self.name = network.eval(), distance_name(network)
        for side in ("real", "generated"):
            self.add_state(f"{side}_n", torch.tensor(0), dist_reduce_fx="sum")
            self.add_state(f"{side}_sum", torch.zeros(d, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", torch.zeros(d, d, dtype=torch.float64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, images: Image, real: bool) -> None:
        """Add a batch of images in [-1, 1] to the real or the generated set."""
        with torch.autocast(images.device.type, enabled=False):
            f = self.network(images.float()).double()
        side = "real" if real else "generated"
        for state, value in (("n", len(f)), ("sum", f.sum(dim=0)), ("outer", f.T @ f)):
            setattr(self, f"{side}_{state}", getattr(self, f"{side}_{state}") + value)

    def set_real(self, statistics: FeatureStatistics) -> None:
        """Replace the real set by cached statistics; call this on one rank only, since ranks add up."""
        n, mean = statistics.n, statistics.mean.to(self.real_sum)
        self.real_n, self.real_sum = torch.full_like(self.real_n, n), n * mean
        self.real_outer = (n - 1) * statistics.covariance.to(mean) + n * mean.outer(mean)

    def statistics(self, real: bool) -> FeatureStatistics:
        """Return the statistics of one set so far; outside `compute`, those of this rank alone."""
        n, total, outer = (self.real_n, self.real_sum, self.real_outer) if real else (
            self.generated_n, self.generated_sum, self.generated_outer
        )  # fmt: skip
        if n < 2:
            raise InvalidOptionError(f"{int(n)} {'real' if real else 'generated'} images; {self.name} needs at least 2")
        mean = total / n
        return FeatureStatistics(int(n), mean, (outer - n * mean.outer(mean)) / (n - 1))

    def compute(self) -> Float[Tensor, ""]:
        """Return the distance as a float64 scalar."""
        distance = statistics_distance(self.statistics(real=True), self.statistics(real=False))
        return torch.tensor(distance, dtype=torch.float64, device=self.real_sum.device)
