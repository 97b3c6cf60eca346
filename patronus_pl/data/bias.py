"""`BiasedSubset`: make attributes of a data set depend on each other, to test whether a model learns the shortcut."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patronus_pl.errors import InvalidOptionError

RULES = {"celeba_hair_smile": {"Black_Hair|Blond_Hair|Brown_Hair,Smiling": -1.0}}
TOLERANCE = 0.01  # in φ: later pairs may disturb earlier ones by no more than this
PASSES = 50  # how often all pairs are corrected before the search ends


@dataclass(frozen=True)
class BiasedSubset:
    """The largest subset of a data set in which pairs of attributes have a wanted correlation φ.

    A pair is written `"A,B": rho`. `"A|B|C,D": rho` keeps the images that have exactly one of A, B, C, and correlates A
    (against the others) with D. Images whose attributes are unknown (NaN) are dropped.

    With n₁₁, n₁₀, n₀₁ and n₀₀ images that have both attributes, the first, the second, or neither,

        φ = (n₁₁ n₀₀ − n₁₀ n₀₁) / √((n₁₁+n₁₀)(n₀₁+n₀₀)(n₁₁+n₀₁)(n₁₀+n₀₀))

    falls with n₁₀ and n₀₁ and rises with n₁₁ and n₀₀. Images of only two of the cells need to go, therefore, and the
    largest subset is found exactly. `seed` decides which images of a cell stay.

    The rule `celeba_hair_smile` is that of Weng et al., arXiv 2503.22782: each face has exactly one of black, blond and
    brown hair; no black-haired face smiles, and all others do (61,214 images of CelebA; φ = −1).

    Args:
        pairs: φ in [-1, 1] for each pair; several pairs hold together, within 0.01.
        rule: a named rule in place of pairs.
        seed: decides which images stay.

    Raises:
        InvalidOptionError: neither or both of pairs and rule, a malformed pair, φ outside [-1, 1].
    """

    pairs: dict[str, float] = field(default_factory=dict)
    rule: Literal["celeba_hair_smile"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.pairs) == bool(self.rule):
            raise InvalidOptionError("data.bias needs either pairs, as {'Black_Hair,Smiling': -0.9}, or a rule")
        if self.rule is not None and self.rule not in RULES:
            raise InvalidOptionError(f"data.bias.rule is {self.rule!r}; choose one of {', '.join(RULES)}")
        for pair, rho in self.pairs.items():
            _parse(pair)
            if not -1 <= rho <= 1:
                raise InvalidOptionError(f"data.bias wants φ = {rho} for {pair!r}; it must be in [-1, 1]")

    def describe(self) -> dict[str, Any]:
        """Return plain values that rebuild this subset: `BiasedSubset(**described)`."""
        return asdict(self)

    def select(self, attributes: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows to keep, ascending.

        Args:
            attributes: (n, a) of 0, 1 or NaN.
            names: the a column names.

        Raises:
            InvalidOptionError: an unknown or constant attribute, or a φ that no subset has.
        """
        pairs = self.pairs if self.rule is None else RULES[self.rule]
        rng = np.random.default_rng(self.seed)
        rows = np.arange(len(attributes))
        columns = {pair: _columns(pair, attributes, names) for pair in pairs}
        for first, second in columns.values():
            rows = rows[~np.isnan(first[rows]) & ~np.isnan(second[rows])]
        for _ in range(PASSES):
            before = rows
            for pair, (first, second) in columns.items():
                rows = _correlate(rows, first[rows] == 1, second[rows] == 1, pairs[pair], pair, rng)
            if len(pairs) == 1 or rows is before:  # one pair cannot be disturbed by another
                return np.sort(rows)
        raise InvalidOptionError(
            f"data.bias: no subset was found that has all of {pairs}; ask for fewer pairs or weaker correlations"
        )


def _parse(pair: str) -> tuple[list[str], str]:
    group, comma, other = pair.partition(",")
    names = [name.strip() for name in group.split("|")]
    if not (comma and all(names) and other.strip() and "," not in other):
        raise InvalidOptionError(f"data.bias cannot read the pair {pair!r}; write 'A,B' or 'A|B|C,D'")
    return names, other.strip()


def _columns(
    pair: str, attributes: NDArray[np.float32], names: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the two columns of a pair; NaN where not exactly one attribute of the group is present."""
    group, other = _parse(pair)
    for name in (*group, other):
        if name not in names:
            raise InvalidOptionError(f"data.bias: no attribute {name!r}; the data set has {', '.join(names) or 'none'}")
    members = attributes[:, [list(names).index(name) for name in group]]
    first = members[:, 0].copy()
    if len(group) > 1:
        first[members.sum(axis=1) != 1] = np.nan
    return first, attributes[:, list(names).index(other)]


def _correlate(
    rows: NDArray[np.int64],
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    rho: float,
    pair: str,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the largest subset of rows in which φ(first, second) = rho."""
    for values, name in ((first, "first"), (second, "second")):
        if values.all() or not values.any():
            raise InvalidOptionError(
                f"data.bias: the {name} attribute of {pair!r} is constant over {len(rows)} images; it must vary"
            )
    cells = [rows[first & second], rows[first & ~second], rows[~first & second], rows[~first & ~second]]
    counts = np.array([len(cell) for cell in cells])
    if abs(phi(*counts) - rho) <= TOLERANCE / 2:
        return rows
    keep = _largest(counts, rho)
    if min(keep[0] + keep[1], keep[2] + keep[3], keep[0] + keep[2], keep[1] + keep[3]) == 0:
        raise InvalidOptionError(f"data.bias: no subset has φ = {rho} for {pair!r}; images a cell: {counts.tolist()}")
    return np.concatenate([rng.permutation(cell)[:kept] for cell, kept in zip(cells, keep, strict=True)])


def phi(n11: Any, n10: Any, n01: Any, n00: Any) -> Any:
    """Return the correlation of two binary attributes from the counts of their four cells; 0 where one is constant."""
    margins = np.sqrt(1.0 * (n11 + n10) * (n01 + n00)) * np.sqrt(1.0 * (n11 + n01) * (n10 + n00))
    return np.where(margins > 0, (1.0 * n11 * n00 - 1.0 * n10 * n01) / np.maximum(margins, 1), 0.0)


def _largest(counts: NDArray[np.int64], rho: float) -> NDArray[np.int64]:
    """Return the most images per cell (n₁₁, n₁₀, n₀₁, n₀₀) with φ at rho, or just beyond it."""
    n11, n10, n01, n00 = counts
    if phi(n11, n10, n01, n00) > rho:  # mirror the second attribute
        return _largest(np.array([n10, n11, n00, n01]), -rho)[[1, 0, 3, 2]]
    kept10 = np.arange(n10 + 1)
    low, high = np.zeros_like(kept10), np.full_like(kept10, n01)
    while (low < high).any():  # for every n₁₀, the largest n₀₁ that still has φ ≥ rho
        middle = (low + high + 1) // 2
        enough = phi(n11, kept10, middle, n00) >= rho - 1e-12
        low, high = np.where(enough, middle, low), np.where(enough, high, middle - 1)
    reached = phi(n11, kept10, low, n00) >= rho - 1e-12
    best = np.where(reached, kept10 + low, -1).argmax()
    return np.array([n11, kept10[best], low[best], n00])
