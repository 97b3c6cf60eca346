"""Consistency: whether the top patches of a prototype look alike."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from patronus_pl.errors import InvalidOptionError


@dataclass(frozen=True)
class Consistency:
    """How alike the top patches of m prototypes are. A gain is a similarity minus that of random patches.

    Attributes:
        similarity: (m,) mean cosine similarity between the feature vectors of two of a prototype's top patches.
        baseline: the same between two random patches.
        low: (m,) lower end of the bootstrap interval of the gain.
        high: (m,) its upper end.
        overall: mean gain over the prototypes.
        overall_low: lower end of its interval.
        overall_high: its upper end.
    """

    similarity: Float[Tensor, " m"]
    baseline: float
    low: Float[Tensor, " m"]
    high: Float[Tensor, " m"]
    overall: float
    overall_low: float
    overall_high: float

    @property
    def gain(self) -> Float[Tensor, " m"]:
        """Return by how much a prototype's top patches are more alike than random patches, shape (m,)."""
        return self.similarity - self.baseline


def consistency(
    features: Float[Tensor, "m k d"],
    random_features: Float[Tensor, "r d"],
    seed: int = 0,
    samples: int = 1000,
    level: float = 0.95,
) -> Consistency:
    """Compare the top patches of each prototype with each other, and with random patches.

    The similarity is the mean of cos(z_a, z_b) over the pairs a ≠ b of the k patches.

    Args:
        features: (m, k, d) vectors of the top patches, k ≥ 2, as `TopPatches.features` has them.
        random_features: (r, d) vectors of random patches, r ≥ 2.
        seed: seed of the bootstrap.
        samples: how often the patches are resampled; two copies of one patch do not count as a pair.
        level: coverage of the intervals.

    Raises:
        InvalidOptionError: fewer than two patches.
    """
    if features.shape[1] < 2 or len(random_features) < 2:
        raise InvalidOptionError(
            f"consistency compares pairs of patches, but there are {features.shape[1]} top patches a prototype and "
            f"{len(random_features)} random ones; give at least 2"
        )
    generator = torch.Generator().manual_seed(seed)
    cosine, random_cosine = _cosines(features), _cosines(random_features[None])
    gains = _bootstrap(cosine, samples, generator) - _bootstrap(random_cosine, samples, generator)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=gains.dtype)
    low, high = gains.nanquantile(ends, dim=1)
    overall_low, overall_high = gains.mean(0).nanquantile(ends)
    similarity, baseline = _pair_mean(cosine), float(_pair_mean(random_cosine))
    overall = float(similarity.mean()) - baseline
    return Consistency(
        similarity.float(), baseline, low.float(), high.float(), overall, float(overall_low), float(overall_high)
    )


def _cosines(vectors: Float[Tensor, "m k d"]) -> Float[Tensor, "m k k"]:
    unit = F.normalize(vectors.detach().double().cpu(), dim=-1)
    return unit @ unit.mT


def _pair_mean(cosine: Float[Tensor, "m k k"]) -> Float[Tensor, " m"]:
    k = cosine.shape[-1]
    return (cosine.sum((1, 2)) - cosine.diagonal(dim1=1, dim2=2).sum(1)) / (k * (k - 1))


def _bootstrap(cosine: Float[Tensor, "m k k"], samples: int, generator: torch.Generator) -> Float[Tensor, "m samples"]:
    """Pair means of resampled patches: with w_a copies of patch a, Σ_{a≠b} w_a w_b c_ab / Σ_{a≠b} w_a w_b."""
    k = cosine.shape[-1]
    drawn = torch.randint(k, (samples, k), generator=generator)
    copies = torch.zeros(samples, k, dtype=cosine.dtype).scatter_add_(1, drawn, torch.ones(samples, k).to(cosine))
    off = cosine - torch.diag_embed(cosine.diagonal(dim1=1, dim2=2))
    return ((copies @ off) * copies).sum(-1) / (k**2 - copies.square().sum(1))
