"""Kernel distance, Inception score, precision and recall of sets of images, from features (n, d), NumPy or torch."""

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics.frechet import FeatureTable, check_features


def kernel_distance(
    features_a: FeatureTable, features_b: FeatureTable, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy (KID, Bińkowski et al. 2018).

    MMD² = mean_{i≠j} k(a_i, a_j) + mean_{i≠j} k(b_i, b_j) − 2 mean_{i,j} k(a_i, b_j),  k(x, y) = (x·y / d + 1)³

    It is unbiased: for equal distributions it is near 0, also below it, at any n.

    Args:
        features_a: shape (n, d).
        features_b: shape (k, d).
        subsets: number of random subsets.
        subset_size: images of each set in one subset; at most all of the smaller set are taken.
        seed: seed of the choice of subsets.

    Returns:
        Mean and standard deviation over subsets.

    Example:
        >>> import numpy as np
        >>> a, b = np.random.default_rng(0).normal(size=(2, 500, 4))
        >>> near, far = (kernel_distance(a, other, subsets=5, subset_size=200)[0] for other in (b, b + 1))
        >>> abs(near) < 0.1 < far
        True
    """
    a, b = check_features(features_a), check_features(features_b)
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
    """Return the Inception score (Salimans et al. 2016), between 1 and the number of classes.

    IS = exp mean_i KL(p(y|x_i) ‖ p(y))

    Args:
        logits: shape (n, classes), from `InceptionFeatures.logits`.
        splits: number of consecutive parts of the images, each of which is scored.

    Returns:
        Mean and standard deviation over parts.

    Example:
        >>> import torch
        >>> one_class_each = 100 * torch.eye(7)
        >>> mean, _ = inception_score(one_class_each, splits=1)
        >>> round(mean, 4)
        7.0
    """
    log_p = check_features(logits).log_softmax(dim=1)
    parts = [part for part in log_p.tensor_split(splits) if len(part)]
    scores = [(p.exp() * (p - p.exp().mean(dim=0).log())).sum(dim=1).mean().exp() for p in parts]
    return float(torch.stack(scores).mean()), float(torch.stack(scores).std(correction=0))


def precision_recall(real: FeatureTable, generated: FeatureTable, neighbours: int = 3) -> tuple[float, float]:
    """Return improved precision and recall (Kynkäänniemi et al. 2019), both in [0, 1].

    Precision is the share of generated images within the k-nearest-neighbour ball of some real image: they look real.
    Recall is the share of real images within the ball of some generated image: nothing is missing.

    Args:
        real: shape (n, d).
        generated: shape (k, d).
        neighbours: k; the radius of a ball is the distance to its k-th neighbour in the same set.

    Raises:
        InvalidOptionError: a set has no more images than `neighbours`.

    Example:
        >>> import numpy as np
        >>> real = np.random.default_rng(0).normal(size=(50, 2))
        >>> precision_recall(real, real), precision_recall(real, real + 100)
        ((1.0, 1.0), (0.0, 0.0))
    """
    x, y = check_features(real), check_features(generated)
    if min(len(x), len(y)) <= neighbours:
        raise InvalidOptionError(
            f"{neighbours} neighbours need more than {min(len(x), len(y))} images; take more images"
        )
    return _covered(y, x, neighbours), _covered(x, y, neighbours)


def _covered(points: Float[Tensor, "n d"], centres: Float[Tensor, "k d"], neighbours: int) -> float:
    """Return the share of points inside a ball; in chunks, since all distances at once need n × k numbers."""
    radius = torch.cat([torch.cdist(c, centres).kthvalue(neighbours + 1).values for c in torch.split(centres, 1000)])
    return float(
        torch.cat([(torch.cdist(p, centres) <= radius).any(dim=1) for p in torch.split(points, 1000)]).double().mean()
    )
