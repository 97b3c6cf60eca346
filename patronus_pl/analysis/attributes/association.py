"""Which attributes occur together in the data; and the bootstrap and the false discovery rate, for judging findings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.stats import false_discovery_control
from torch import Tensor

from patronus_pl.errors import InvalidOptionError
from patronus_pl.types import Attributes

EXPECTED = 5.0
"""Two attributes exclude each other if they never occur together where chance would make at least so many images."""


@dataclass(frozen=True)
class Association:
    """What `associate` found, for a attributes.

    Attributes:
        phi: (a, a) correlation φ of two attributes in [-1, 1]; NaN where one is constant.
        low: (a, a) lower end of the bootstrap interval of φ.
        high: (a, a) upper end of that interval.
        resampled: (r, a, a) φ of each resampled data set.
        share: (a,) share of the images that have the attribute.
        group: (a, a) whether two attributes are alternatives that exclude each other, such as two hair colours.
    """

    phi: Float[Tensor, "a a"]
    low: Float[Tensor, "a a"]
    high: Float[Tensor, "a a"]
    resampled: Float[Tensor, "r a a"]
    share: Float[Tensor, " a"]
    group: Bool[Tensor, "a a"]

    @property
    def spread(self) -> Float[Tensor, " a"]:
        """Standard deviation σ = √(q (1 − q)) of each attribute over images, with q its share, shape (a,)."""
        return (self.share * (1 - self.share)).sqrt()


def associate(
    attributes: Attributes, names: Sequence[str] = (), samples: int = 1000, seed: int = 0, level: float = 0.95
) -> Association:
    """Return the correlation φ of every pair of attributes, with bootstrap intervals.

        φ = (n₁₁ n₀₀ − n₁₀ n₀₁) / √((n₁₁+n₁₀)(n₀₁+n₀₀)(n₁₁+n₀₁)(n₁₀+n₀₀))

    Resampling n images changes only the four counts of a pair, which are then multinomial: the bootstrap costs the same
    however many images there are.

    Args:
        attributes: shape (n, a), of 0, 1 and NaN (unknown: the image does not count for pairs with that attribute).
        names: names of the a attributes, from whose words `group` is found; may be empty.
        samples: number of resamplings.
        seed: seed of the resampling.
        level: confidence level of the intervals.

    Raises:
        InvalidOptionError: there is another number of names than of attributes.
    """
    if len(names) not in (0, attributes.shape[1]):
        raise InvalidOptionError(f"{len(names)} names for {attributes.shape[1]} attributes; give one each")
    cells = _cells(attributes)
    total = cells.sum(-1)
    rng = np.random.default_rng(seed)
    shares = cells / np.maximum(total, 1)[..., None]
    shares[..., 3] = 1 - shares[..., :3].sum(-1)  # rounding must not lift the sum above 1
    drawn = _phi(rng.multinomial(total.astype(np.int64), shares.clip(0, 1), (samples, *total.shape)))
    upper = np.triu(drawn)
    drawn = upper + np.triu(drawn, 1).swapaxes(1, 2)  # a pair is one pair, whichever comes first
    resampled = torch.from_numpy(drawn).float()
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = resampled.nanquantile(ends, dim=0)
    return Association(
        phi=torch.from_numpy(_phi(cells)).float(),
        low=low,
        high=high,
        resampled=resampled,
        share=attributes.float().nanmean(0),
        group=torch.from_numpy(_groups(cells, attributes, names)),
    )


def _cells(attributes: Attributes) -> NDArray[np.float64]:
    """Count images on which both attributes hold, only the first, only the second, or neither, shape (a, a, 4)."""
    y = attributes.double().cpu().numpy()
    on, off = (y == 1).astype(float), (y == 0).astype(float)
    return np.stack([on.T @ on, on.T @ off, off.T @ on, off.T @ off], axis=-1)


def _phi(cells: NDArray[np.generic]) -> NDArray[np.float64]:
    n11, n10, n01, n00 = np.moveaxis(cells.astype(float), -1, 0)
    margins = np.sqrt((n11 + n10) * (n01 + n00)) * np.sqrt((n11 + n01) * (n10 + n00))
    result: NDArray[np.float64] = np.where(
        margins > 0, (n11 * n00 - n10 * n01) / np.where(margins > 0, margins, 1), np.nan
    )
    return result


def _groups(cells: NDArray[np.float64], attributes: Attributes, names: Sequence[str]) -> NDArray[np.bool_]:
    """Find pairs of alternatives: they exclude each other, and are classes or share a word of their names.

    That two attributes exclude each other is not enough: those of a planted shortcut with φ = −1 do so too.
    """
    on = cells[..., 0]
    held, total = np.diag(on), np.maximum(cells.sum(-1), 1)
    never: NDArray[np.bool_] = (on == 0) & (held[:, None] * held / total >= EXPECTED)
    if bool((attributes.sum(1) == 1).all()):
        return never
    words = [set(name.lower().split("_")) for name in names] or [set()] * len(never)
    akin = np.array([[not a.isdisjoint(b) for b in words] for a in words])
    group: NDArray[np.bool_] = never & akin
    return group


# ---- chance ----------------------------------------------------------------------------------------------------------


def bootstrap_means(values: Float[Tensor, "n *shape"], samples: int = 1000, seed: int = 0) -> Float[Tensor, "r *shape"]:
    """Return means over resampled rows (bootstrap); all entries of a row are drawn together.

    Args:
        values: shape (n, …).
        samples: number of resamplings.
        seed: seed of the resampling.

    Returns:
        Shape (samples, …), computed in float64 and returned in the type of `values`.
    """
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), samples)
    means = torch.from_numpy(counts / n) @ values.double().cpu().flatten(1)
    return means.reshape(samples, *values.shape[1:]).to(values)


def adjusted(p_values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return Benjamini and Hochberg's q-values: of all findings with q ≤ 0.05, on average at most 5 % are false.

    NaN stays NaN, and does not count as a test.
    """
    result, tested = p_values.clone(), ~p_values.isnan()
    if bool(tested.any()):
        q = false_discovery_control(p_values[tested].double().numpy(), method="bh")
        result[tested] = torch.from_numpy(np.asarray(q)).to(result)
    return result
