"""Ties: how far one attribute drags another along, how sure that is, and whether the data explain it.

Notation: a move is meant for attribute a; D_b is what it changes in the share of images with b, q_b how common b is in
the data, σ_b = √(q_b (1 − q_b)).

    tie(a → b) = (D_b / σ_b) / (D_a / σ_a)

is on the scale of φ: a model that draws just what its data show has tie(a → b) = φ(a, b), and one that moves each
attribute alone has 0.

A pair is tied if its tie is at least `margin`, and larger than both chance over images and what random moves do:
t = tie / √(error² + null²), two-sided under Student's t with k − 1 degrees of freedom for k random moves, q ≤ `level`
after Benjamini and Hochberg over all tested pairs. A tie is then

- *in the data* if φ points the same way and the tie does not exceed it, by `margin` and beyond its 95 % interval;
- *amplified* if φ points the same way and the tie does exceed it;
- *introduced* by the model if φ is below `margin`, not sure of its sign, or points the other way.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student
from torch import Tensor

from patronus_pl.analysis.attributes.association import Association, adjusted, bootstrap_means

Verdict = Literal[
    "itself", "not judged", "not moved", "one group", "independent", "in the data", "amplified", "introduced"
]
MOVED = 0.1
"""Smallest share of images in which a move must change its own attribute; below it, ties are not tested."""
ENDS = torch.tensor([0.025, 0.975])
"""Quantiles of a bootstrap between which 95 % lie."""
ONE_SIGMA = 0.6827
"""Share of normal numbers within one standard deviation: this quantile of |tie| estimates it, and ignores outliers."""


@dataclass(frozen=True)
class Effects:
    """What p moves do to a attributes.

    Attributes:
        share: (p, a) by how much each move changes the share of images with each attribute: the judge's mean change
            over its gain.
        resampled: (r, p, a) the same over resampled images.
    """

    share: Float[Tensor, "p a"]
    resampled: Float[Tensor, "r p a"]


def effects(change: Float[Tensor, "p n a"], gain: Float[Tensor, " a"], samples: int = 1000, seed: int = 0) -> Effects:
    """Return mean changes of the judge's scores, corrected for its errors (Rogan & Gladen 1978): D = E[Δ score] / gain.

    Args:
        change: score at the high end minus score at the low end, of p moves, n images and a attributes.
        gain: `JudgeQuality.gain`, shape (a,).
        samples: number of resamplings of the images, the same for all moves and attributes.
        seed: seed of the resampling.
    """
    corrected = change / gain
    # Both means in float64: without any spread over images they are then equal to the last bit.
    share = corrected.double().mean(1).to(corrected)
    return Effects(share, bootstrap_means(corrected.transpose(0, 1), samples, seed))


def tie_matrix(
    share: Float[Tensor, "*r p a"], own: Int[Tensor, " p"], spread: Float[Tensor, " a"]
) -> Float[Tensor, "*r p a"]:
    """Return tie(a → b) = (D_b / σ_b) / (D_a / σ_a), where a is the move's own attribute.

    Args:
        share: D of p moves and a attributes.
        own: the attribute that each move is meant for.
        spread: σ of the attributes.
    """
    standard = share / spread
    return standard / _own(standard, own)[..., None]


def null_ties(
    share: Float[Tensor, "k a"], overlap: Float[Tensor, "k a"], spread: Float[Tensor, " a"], own_effect: float
) -> Float[Tensor, "k a"]:
    """Return what random moves of the same size do to attributes beyond what they ask of them, on the scale of ties.

    A random move asks a little of every attribute, v·u_b, and gets c_b v·u_b on average; c_b is fitted over all k.
    What remains happens to an attribute without being asked for.

    Args:
        share: effects D of the k random moves.
        overlap: v·u_b, the products of their directions with those of the attributes.
        spread: σ of the attributes.
        own_effect: median over the real moves of D_a / σ_a, by which random effects are divided.
    """
    standard = share / spread
    slope = (standard * overlap).sum(0) / overlap.square().sum(0).clamp_min(1e-12)
    k = len(share)
    rest: Tensor = (standard - slope * overlap) * (k / max(k - 1, 1)) ** 0.5 / own_effect
    return rest


@dataclass(frozen=True)
class Ties:
    """What `find_ties` found, for p moves and a attributes; NaN where nothing was tested.

    Attributes:
        own: (p,) the attribute that each move is meant for.
        own_effect: (p,) D_a, the change in the share of images with that attribute.
        own_low: (p,) lower end of the 95 % interval of D_a.
        own_high: (p,) upper end of that interval.
        tie: (p, a) the tie, on the scale of φ.
        low: (p, a) lower end of its 95 % bootstrap interval.
        high: (p, a) upper end of that interval.
        error: (p, a) standard error of the tie over images.
        p_value: (p, a) two-sided p-value.
        q_value: (p, a) p-value after Benjamini and Hochberg.
        phi: (p, a) φ of the move's own attribute with each attribute in the data.
        unexplained: (p, a) how far the tie exceeds what the data show, in its direction; 0 where it does not.
        verdict: p lists of a verdicts.
        null_scale: standard deviation of the ties of random moves, estimated by their 68th percentile.
    """

    own: Int[Tensor, " p"]
    own_effect: Float[Tensor, " p"]
    own_low: Float[Tensor, " p"]
    own_high: Float[Tensor, " p"]
    tie: Float[Tensor, "p a"]
    low: Float[Tensor, "p a"]
    high: Float[Tensor, "p a"]
    error: Float[Tensor, "p a"]
    p_value: Float[Tensor, "p a"]
    q_value: Float[Tensor, "p a"]
    phi: Float[Tensor, "p a"]
    unexplained: Float[Tensor, "p a"]
    verdict: list[list[Verdict]]
    null_scale: float

    @property
    def tested(self) -> Bool[Tensor, "p a"]:
        """The pairs that were tested, shape (p, a)."""
        return ~self.p_value.isnan()

    def worst_unexplained(self) -> float:
        """Return the largest part of a tie that the data do not explain; 0 if there is no such tie."""
        found = [[v in ("amplified", "introduced") for v in row] for row in self.verdict]
        return float(self.unexplained.where(torch.tensor(found), 0.0).nan_to_num(0.0).max())


def find_ties(
    found: Effects,
    own: Int[Tensor, " p"],
    usable: Bool[Tensor, " a"],
    data: Association,
    null: Float[Tensor, "k a"],
    twin: Float[Tensor, "p a"] | None = None,
    margin: float = 0.1,
    level: float = 0.05,
) -> Ties:
    """Test the tie of every pair, and find where it comes from, by the rules at the head of this file.

    Args:
        found: effects of the moves.
        own: the attribute that each move is meant for.
        usable: which attributes the judge can tell.
        data: how attributes go together in the data.
        null: the ties of k random moves, from `null_ties`.
        twin: ties of another model, trained without the bias, which are subtracted before a tie is tested.
        margin: smallest tie that counts.
        level: share of false findings that is accepted.
    """
    tie, resampled = (tie_matrix(share, own, data.spread) for share in (found.share, found.resampled))
    own_effect, own_resampled = (_own(share, own) for share in (found.share, found.resampled))
    own_low, own_high = own_resampled.nanquantile(ENDS, dim=0)
    low, high = resampled.nanquantile(ENDS, dim=0)
    moved = (own_effect >= MOVED) & (own_low > 0) & usable[own]
    itself, group, phi = own[:, None] == torch.arange(tie.shape[1]), data.group[own], data.phi[own]
    tested = moved[:, None] & usable & ~itself & ~group & tie.isfinite()
    error, scale = resampled.std(0), _scale(null[:, usable])
    beyond = tie if twin is None else tie - twin.nan_to_num(0.0)
    p_value = _p_value(beyond, (error.square() + scale**2).sqrt(), len(null) - 1).where(tested, torch.nan)
    q_value = adjusted(p_value)
    tied = (q_value <= level) & (beyond.abs() >= margin)
    verdict = _verdicts(itself, usable, moved, group, tied, *_origin(tie, resampled, data, own, margin))
    unexplained = (tie.abs() - (tie.sign() * phi).clamp_min(0)).clamp_min(0).where(tested, torch.nan)
    return Ties(
        own, own_effect, own_low, own_high, tie, low, high, error, p_value, q_value, phi, unexplained, verdict, scale
    )


def _own(share: Float[Tensor, "*r p a"], own: Int[Tensor, " p"]) -> Float[Tensor, "*r p"]:
    """Return what each move does to its own attribute."""
    return share.gather(-1, own[:, None].expand(*share.shape[:-1], 1))[..., 0]


def _scale(null: Float[Tensor, "k b"]) -> float:
    return float(null.abs().quantile(ONE_SIGMA)) if null.numel() else 0.0


def _p_value(tie: Float[Tensor, "p a"], error: Float[Tensor, "p a"], freedom: int) -> Float[Tensor, "p a"]:
    """Return two-sided p-values under Student's t."""
    statistic = tie.abs() / error.clamp_min(1e-12)
    return 2 * torch.from_numpy(student.sf(statistic.double().numpy(), max(freedom, 1))).float()


def _origin(
    tie: Float[Tensor, "p a"],
    resampled: Float[Tensor, "r p a"],
    data: Association,
    own: Int[Tensor, " p"],
    margin: float,
) -> tuple[Bool[Tensor, "p a"], Bool[Tensor, "p a"]]:
    """Return whether the data show the same tie, and whether the model's is surely stronger, both (p, a)."""
    sign, phi = tie.sign(), data.phi[own]
    sure = data.low[own] * data.high[own] > 0
    excess = (sign * (resampled - data.resampled[: len(resampled), own])).nanquantile(0.025, dim=0)
    return (sign * phi >= margin) & sure, (sign * (tie - phi) >= margin) & (excess > 0)


def _verdicts(
    itself: Tensor, usable: Tensor, moved: Tensor, group: Tensor, tied: Tensor, in_data: Tensor, more: Tensor
) -> list[list[Verdict]]:
    def word(p: int, b: int) -> Verdict:
        if itself[p, b]:
            return "itself"
        if not usable[b]:
            return "not judged"
        if group[p, b]:
            return "one group"
        if not moved[p]:
            return "not moved"
        if not tied[p, b]:
            return "independent"
        if not in_data[p, b]:
            return "introduced"
        return "amplified" if more[p, b] else "in the data"

    return [[word(p, b) for b in range(itself.shape[1])] for p in range(len(itself))]
