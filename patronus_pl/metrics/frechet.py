"""Distances between a set of real and a set of generated images, from their features.

Pure functions on features (n, d), NumPy or torch; then `FrechetDistance`, whose sums add up over ranks.
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
    """The Gaussian that a Fréchet distance compares: float64, covariance with n − 1.

    Attributes:
        n: number of images.
        mean: (d,).
        covariance: (d, d).
    """

    n: int
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """As `cached_arrays` keeps them."""
        return {"n": np.array(self.n), "mean": self.mean.cpu().numpy(), "covariance": self.covariance.cpu().numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "FeatureStatistics":
        """The inverse of `to_arrays`."""
        return cls(int(arrays["n"]), torch.as_tensor(arrays["mean"]), torch.as_tensor(arrays["covariance"]))


def feature_statistics(features: FeatureTable) -> FeatureStatistics:
    """Mean and covariance of features (n, d), n ≥ 2."""
    x = _rows(features)
    return FeatureStatistics(len(x), x.mean(dim=0), x.T.cov())


def statistics_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Fréchet distance of two Gaussians (Dowson & Landau 1982), in float64.

    d² = ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 tr (Σ_a^½ Σ_b Σ_a^½)^½
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
    """Fréchet distance between two sets of features (Heusel et al. 2017), in float64; 0 for equal sets.

    An FID only for Inception's 2048 features (`distance_name`). Biased upwards for few images: compare equal n only.

    Args:
        features_a: (n, d).
        features_b: (k, d).

    Raises:
        InvalidOptionError: fewer than two images, features that are not finite or of different dimensions.
    """
    return statistics_distance(feature_statistics(features_a), feature_statistics(features_b))


def kernel_distance(
    features_a: FeatureTable, features_b: FeatureTable, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy (KID, Bińkowski et al. 2018): mean and deviation over random subsets.

    MMD² = mean_{i≠j} k(a_i, a_j) + mean_{i≠j} k(b_i, b_j) − 2 mean_{i,j} k(a_i, b_j),  k(x, y) = (x·y / d + 1)³

    Unbiased: near 0, also below it, for equal distributions at any n.

    Args:
        features_a: (n, d).
        features_b: (k, d).
        subsets: how many.
        subset_size: images of each set in one subset; at most all of the smaller set are taken.
        seed: of the choice.
    """
    a, b = _rows(features_a), _rows(features_b)
    size, generator = min(subset_size, len(a), len(b)), torch.Generator().manual_seed(seed)

    def choose(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=generator)[:size].to(x.device)]

    values = torch.stack([_squared_discrepancy(choose(a), choose(b)) for _ in range(subsets)])
    return float(values.mean()), float(values.std(correction=0))


def _squared_discrepancy(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    n, d = a.shape
    aa, bb, ab = ((x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    return (aa.sum() - aa.trace() + bb.sum() - bb.trace()) / (n * (n - 1)) - 2 * ab.mean()


def inception_score(logits: FeatureTable, splits: int = 10) -> tuple[float, float]:
    """Inception score (Salimans et al. 2016): mean and deviation over consecutive parts of the images.

    IS = exp mean_i KL(p(y|x_i) ‖ p(y)), between 1 and the number of classes.

    Args:
        logits: (n, classes), from `InceptionFeatures.logits`.
        splits: number of parts.
    """
    log_p = _rows(logits).log_softmax(dim=1)
    parts = [part for part in log_p.tensor_split(splits) if len(part)]
    scores = [(p.exp() * (p - p.exp().mean(dim=0).log())).sum(dim=1).mean().exp() for p in parts]
    return float(torch.stack(scores).mean()), float(torch.stack(scores).std(correction=0))


def precision_recall(real: FeatureTable, generated: FeatureTable, neighbours: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019), both in [0, 1].

    Precision: share of generated images within the k-nearest-neighbour ball of some real one (they look real).
    Recall: share of real images within the ball of some generated one (nothing is missing).

    Args:
        real: (n, d).
        generated: (k, d).
        neighbours: k; the radius of a ball is the distance to its k-th neighbour in the same set.

    Raises:
        InvalidOptionError: a set without that many neighbours.
    """
    x, y = _rows(real), _rows(generated)
    if min(len(x), len(y)) <= neighbours:
        raise InvalidOptionError(
            f"{neighbours} neighbours need more than {min(len(x), len(y))} images; take more images"
        )
    return _covered(y, x, neighbours), _covered(x, y, neighbours)


def _covered(points: Float[Tensor, "n d"], centres: Float[Tensor, "k d"], neighbours: int) -> float:
    """Share of points inside a ball; rows in chunks, since all distances at once need n × k numbers."""
    radius = torch.cat([torch.cdist(c, centres).kthvalue(neighbours + 1).values for c in torch.split(centres, 1000)])
    return float(
        torch.cat([(torch.cdist(p, centres) <= radius).any(dim=1) for p in torch.split(points, 1000)]).double().mean()
    )


def _rows(features: FeatureTable) -> Float[Tensor, "n d"]:
    # A copy: PyTorch warns about memory maps and other read-only arrays, and takes no reversed ones.
    x = features.detach().double() if isinstance(features, Tensor) else torch.from_numpy(features.astype(np.float64))
    if len(x) < 2:
        raise InvalidOptionError(f"a set of {len(x)} images has no spread; give at least 2 of each")
    broken = (~x.isfinite().all(dim=1)).nonzero()
    if len(broken):
        raise InvalidOptionError(f"features: row {int(broken[0])} is not finite; check this image and the network")
    return x


class FrechetDistance(Metric):
    """Fréchet distance as a torchmetrics `Metric`: images in, one number out, exact over DDP ranks.

    Its states are n, Σf and Σffᵀ of both sets in float64: they add up over batches and ranks in any order. Features are
    computed in float32, outside autocast. Keep it in a callback: as an attribute of a module it would put the feature
    network into checkpoints and EMA.

    Args:
        network: feature network (see `patronus_pl.metrics.features`).

    Attributes:
        name: `FID` with Inception, else `Frechet distance (<network>)`.
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
        """Take cached statistics as the real set; call it on one rank only, since ranks add up."""
        n, mean = statistics.n, statistics.mean.to(self.real_sum)
        self.real_n, self.real_sum = torch.full_like(self.real_n, n), n * mean
        self.real_outer = (n - 1) * statistics.covariance.to(mean) + n * mean.outer(mean)

    def statistics(self, real: bool) -> FeatureStatistics:
        """The statistics of one set so far (of this rank, outside `compute`)."""
        n, total, outer = (self.real_n, self.real_sum, self.real_outer) if real else (
            self.generated_n, self.generated_sum, self.generated_outer
        )  # fmt: skip
        if n < 2:
            raise InvalidOptionError(f"{int(n)} {'real' if real else 'generated'} images; {self.name} needs at least 2")
        mean = total / n
        return FeatureStatistics(int(n), mean, (outer - n * mean.outer(mean)) / (n - 1))

    def compute(self) -> Float[Tensor, ""]:
        """The distance, float64."""
        distance = statistics_distance(self.statistics(real=True), self.statistics(real=False))
        return torch.tensor(distance, dtype=torch.float64, device=self.real_sum.device)
