"""The census: which prototypes hardly vary, which are duplicates, and which follow the whole image.

It is computed from activations and prototype vectors; no model is run.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from patronus_pl.errors import InvalidOptionError
from patronus_pl.objective.decorrelation import correlation
from patronus_pl.types import Activations

DEAD = 0.05
"""A prototype is dead when its standard deviation is below this share of the median one."""
DUPLICATE = 0.95
"""Two prototypes are duplicates when their |correlation| is above this."""
GLOBAL = 1 / 3
"""A prototype is global when more than this share of an image's patches follows it."""


@dataclass(frozen=True)
class Census:
    """Which of m prototypes are dead, duplicate or global. All tensors are on the CPU.

    Attributes:
        std: (m,) standard deviation of each prototype's activation.
        dead: (m,) whether it hardly varies.
        correlation: (m, m) Pearson's correlation of the activations; 0 for a prototype that is dead.
        duplicates: pairs (j, k), j < k, of live prototypes whose |correlation| exceeds 0.95, the closest pair first.
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
        """Return whether each prototype varies, shape (m,)."""
        return ~self.dead

    def summary(self) -> dict[str, int | float]:
        """Return counts and means as plain numbers, for a logger or JSON."""
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
    """Return the exponential of the entropy of the eigenvalues of a symmetric, positive semi-definite matrix.

    It is between 1 and m, and 0 for a matrix of zeros.

    >>> round(effective_rank(torch.eye(3)), 6)
    3.0
    """
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
