"""The census: which prototypes live, which say the same, which speak of the whole image, and what each one reads.

Everything here is computed from activations, prototypes and feature vectors; no model is run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import auroc
from patronus_pl.prototypes import correlation
from patronus_pl.types import Activations, Attributes

DEAD = 0.05
"""A prototype is dead when its standard deviation is below this share of the median one."""
DUPLICATE = 0.95
"""Two prototypes are duplicates when their |correlation| is above this."""
GLOBAL = 1 / 3
"""A prototype is global when more than this share of an image's patches follows it."""


@dataclass(frozen=True)
class Census:
    """What `census` found. All tensors are on the CPU.

    Attributes:
        std: (m,) standard deviation of each prototype's activation.
        dead: (m,) whether it hardly varies.
        correlation: (m, m) Pearson; 0 for a prototype that is constant.
        duplicates: pairs (j, k), j < k, of live prototypes that say the same, the closest pair first.
        spread: (m,) share of an image's patches that follow it, see `TopPatches`; NaN where unknown.
        is_global: (m,) whether that share is large.
        effective_rank: how many independent directions the live prototypes span: 1 .. number of live ones, 0 if none.
        mean_abs_correlation: mean |correlation| over the pairs of live prototypes; 0 if there is no pair.
        neighbour: (m,) index of the prototype whose vector points most nearly the same way; -1 if there is none.
        neighbour_cosine: (m,) cosine between the two; NaN if there is none.
    """

    std: Float[Tensor, " m"]
    dead: Bool[Tensor, " m"]
    correlation: Float[Tensor, "m m"]
    duplicates: list[tuple[int, int]]
    spread: Float[Tensor, " m"]
    is_global: Bool[Tensor, " m"]
    effective_rank: float
    mean_abs_correlation: float
    neighbour: Int[Tensor, " m"]
    neighbour_cosine: Float[Tensor, " m"]

    @property
    def live(self) -> Bool[Tensor, " m"]:
        """(m,) those that are not dead."""
        return ~self.dead

    def summary(self) -> dict[str, int | float]:
        """Plain numbers, for a logger or JSON."""
        return {
            "prototypes": len(self.dead),
            "dead": int(self.dead.sum()),
            "duplicates": len({k for _, k in self.duplicates}),
            "global": int(self.is_global.sum()),
            "effective_rank": self.effective_rank,
            "mean_abs_correlation": self.mean_abs_correlation,
        }


def census(
    activations: Activations, prototypes: Float[Tensor, "p d"], spread: Float[Tensor, " q"] | None = None
) -> Census:
    """Count the prototypes that are dead, duplicate or global.

    Effective rank (Roy & Vetterli 2007) of the live prototypes' correlation matrix with eigenvalues λ:
    exp(-Σ p_i log p_i), p_i = λ_i / Σ λ.

    Args:
        activations: (n, m) over a representative set.
        prototypes: (m, d) their vectors.
        spread: (m,) as `TopPatches.spread` has it; None leaves global prototypes uncounted.

    Raises:
        InvalidOptionError: fewer than two images, or another number of vectors or spreads than of activations.
    """
    n, m = activations.shape
    if n < 2:
        raise InvalidOptionError(f"a census of {n} image(s) says nothing of variation; give at least 2")
    for name, values in (("prototypes", prototypes), ("spread", spread)):
        if values is not None and len(values) != m:
            raise InvalidOptionError(f"{name} has {len(values)} rows but there are {m} activations an image")
    s = activations.detach().double().cpu()
    std = s.std(0, correction=0)
    dead = std <= torch.maximum(DEAD * std.quantile(0.5), 1e-6 * s.abs().amax(0).clamp_min(1.0))
    corr = correlation(s) * ~dead[:, None] * ~dead
    spread = torch.full((m,), torch.nan) if spread is None else spread.detach().float().cpu()
    neighbour, cosine = _neighbours(prototypes.detach().float().cpu())
    return Census(
        std=std.float(),
        dead=dead,
        correlation=corr.float(),
        duplicates=_pairs_above(corr.abs(), DUPLICATE),
        spread=spread,
        is_global=spread > GLOBAL,
        effective_rank=effective_rank(corr),
        mean_abs_correlation=_mean_off_diagonal(corr.abs()[~dead][:, ~dead]),
        neighbour=neighbour,
        neighbour_cosine=cosine,
    )


def effective_rank(matrix: Float[Tensor, "m m"]) -> float:
    """Exponential of the entropy of the eigenvalues of a symmetric, positive semi-definite matrix; 0 if it vanishes."""
    eigenvalues = torch.linalg.eigvalsh(matrix.double()).clamp_min(0)
    if eigenvalues.sum() == 0:
        return 0.0
    return float(torch.special.entr(eigenvalues / eigenvalues.sum()).sum().exp())


def _pairs_above(values: Float[Tensor, "m m"], threshold: float) -> list[tuple[int, int]]:
    rows, cols = torch.where(values.triu(1) > threshold)
    order = values[rows, cols].argsort(descending=True)
    return [(int(j), int(k)) for j, k in zip(rows[order], cols[order], strict=True)]


def _mean_off_diagonal(values: Float[Tensor, "m m"]) -> float:
    m = len(values)
    return float((values.sum() - values.diagonal().sum()) / (m * (m - 1))) if m > 1 else 0.0


def _neighbours(vectors: Float[Tensor, "m d"]) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    m = len(vectors)
    if m < 2:
        return torch.full((m,), -1), torch.full((m,), torch.nan)
    unit = F.normalize(vectors, dim=1)
    cosine, nearest = (unit @ unit.T).fill_diagonal_(-torch.inf).max(1)
    return nearest, cosine


# ---- consistency -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Consistency:
    """What `consistency` found. A gain is a similarity minus the one of random patches.

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
        """(m,) by how much a prototype's top patches are more alike than random ones."""
        return self.similarity - self.baseline


def consistency(
    features: Float[Tensor, "m k d"],
    random_features: Float[Tensor, "r d"],
    seed: int = 0,
    samples: int = 1000,
    level: float = 0.95,
) -> Consistency:
    """Whether the patches that a prototype lights up show one thing.

    Mean of cos(z_a, z_b) over the pairs a ≠ b of its top-k patches, against the same mean over random patches.

    Args:
        features: (m, k, d) vectors of the top patches, k ≥ 2, as `TopPatches.features` has them.
        random_features: (r, d) vectors of random patches, r ≥ 2.
        seed: of the bootstrap.
        samples: resamplings of the patches (a pair of copies of one patch does not count as a pair).
        level: of the intervals.

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


# ---- attributes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttributeReading:
    """What `best_attribute` found. AUROCs of either sign are max(AUROC, 1 - AUROC).

    Attributes:
        names: of the a attributes.
        auroc: (a, m) of each prototype for each attribute, in [0, 1]; NaN where an attribute has one value only.
        attribute: (m,) index of the attribute that each prototype predicts best; -1 if no attribute varies.
        attribute_auroc: (m,) that AUROC of either sign; NaN if none.
        attribute_sign: (m,) 1 if a high activation means that the attribute is present, -1 if absent.
        prototype: (a,) index of the prototype that predicts each attribute best; -1 if the attribute does not vary.
        prototype_auroc: (a,) that AUROC of either sign; NaN if none.
        prototype_sign: (a,) 1 if a high activation of it means that the attribute is present, -1 if absent.
        runner_up_auroc: (a,) AUROC of the next best prototype; 0.5 (chance) if there is only one, NaN if none.
    """

    names: tuple[str, ...]
    auroc: Float[Tensor, "a m"]
    attribute: Int[Tensor, " m"]
    attribute_auroc: Float[Tensor, " m"]
    attribute_sign: Int[Tensor, " m"]
    prototype: Int[Tensor, " a"]
    prototype_auroc: Float[Tensor, " a"]
    prototype_sign: Int[Tensor, " a"]
    runner_up_auroc: Float[Tensor, " a"]

    @property
    def gap(self) -> Float[Tensor, " a"]:
        """(a,) how far the best prototype of each attribute is ahead of the next."""
        return self.prototype_auroc - self.runner_up_auroc


def best_attribute(activations: Activations, attributes: Attributes, names: Sequence[str]) -> AttributeReading:
    """Per prototype the attribute it predicts best, per attribute its best prototype and the lead over the next best.

    Args:
        activations: (n, m).
        attributes: (n, a) of 0, 1 and NaN (unknown: left out for that attribute).
        names: of the attributes.

    Raises:
        InvalidOptionError: another number of names than of attributes, or of rows.
    """
    if len(names) != attributes.shape[1]:
        raise InvalidOptionError(f"{len(names)} names for {attributes.shape[1]} attributes; give one each")
    table = torch.from_numpy(auroc(activations, attributes)).float()
    attribute, attribute_auroc, attribute_sign = _strongest(table.T)
    prototype, prototype_auroc, prototype_sign = _strongest(table)
    rivals = torch.cat([table, torch.full_like(table[:, :1], 0.5)], dim=1)
    runner_up = torch.maximum(rivals, 1 - rivals).sort(dim=1, descending=True).values[:, 1]
    return AttributeReading(
        names=tuple(names),
        auroc=table,
        attribute=attribute,
        attribute_auroc=attribute_auroc,
        attribute_sign=attribute_sign,
        prototype=prototype,
        prototype_auroc=prototype_auroc,
        prototype_sign=prototype_sign,
        runner_up_auroc=runner_up.where(prototype >= 0, torch.nan),
    )


def _strongest(
    table: Float[Tensor, "rows cols"],
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Column of the AUROC furthest from 0.5 in each row (-1 if all are NaN), that AUROC of either sign, its sign."""
    table = torch.cat([table, table.new_full((len(table), 1), torch.nan)], dim=1)  # there may be no column
    best, column = torch.maximum(table, 1 - table).nan_to_num(0.0).max(1)
    sign = torch.where(table.gather(1, column[:, None])[:, 0] < 0.5, -1, 1)
    return column.where(best > 0, -1), best.where(best > 0, torch.nan), sign
