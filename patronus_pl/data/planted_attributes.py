"""The attributes of planted faces: how often each holds, how they depend on each other, and the chance that decides."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patronus_pl.errors import InvalidOptionError

GROUPS: dict[str, dict[str, float]] = {
    "hair colour": {"Black_Hair": 0.5, "Brown_Hair": 0.25, "Blond_Hair": 0.25},
    "hair style": {"Long_Hair": 1 / 3, "Curly_Hair": 1 / 3, "Short_Hair": 1 / 3},
    "skin": {"Pale_Skin": 1 / 3, "Dark_Skin": 1 / 3},
}
"""Groups of attributes of which at most one holds, with the probability of each."""

FREE: dict[str, float] = {
    "Smiling": 0.5,
    "Eyeglasses": 0.5,
    "Wearing_Hat": 0.4,
    "Wearing_Red": 0.5,
    "Bright_Background": 0.5,
    "Large_Head": 0.5,
}
"""Attributes that hold independently, with the probability of each."""

GLOBAL = ("Pale_Skin", "Dark_Skin", "Bright_Background", "Large_Head")
MARGINALS = {**{name: p for group in GROUPS.values() for name, p in group.items()}, **FREE}
ATTRIBUTES = (*(name for name in MARGINALS if name not in GLOBAL), *GLOBAL)

MOST = 1 / 3
"""The largest frequency that `rarity` may ask for: three attributes of a group then exclude each other."""


def rare_marginals(rarity: Sequence[float] | None) -> Mapping[str, float]:
    """Return how often each attribute holds.

    Args:
        rarity: the least and the greatest frequency. The attributes lie evenly between them on a logarithmic scale, in
            an order that mixes the groups. None: `MARGINALS`.

    Raises:
        InvalidOptionError: not two frequencies with 0 < least ≤ greatest ≤ 1/3.
    """
    if rarity is None:
        return MARGINALS
    if len(rarity) != 2 or not all(isfinite(p) for p in rarity) or not 0 < rarity[0] <= rarity[1] <= MOST + 1e-9:
        raise InvalidOptionError(
            f"data.rarity is {list(rarity)}; write the least and the greatest frequency of an attribute, as in "
            "[0.03, 0.15], above 0 and at most 1/3, so that the attributes of a group can exclude each other"
        )
    low, high = rarity
    # Five steps along the list at a time: neighbours, such as the three hair colours, get frequencies far apart.
    places = {name: 5 * i % len(ATTRIBUTES) / (len(ATTRIBUTES) - 1) for i, name in enumerate(ATTRIBUTES)}
    return {name: low * (high / low) ** place for name, place in places.items()}


# ---- random numbers --------------------------------------------------------------------------------------------------

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ / golden ratio: the step of SplitMix64."""


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64 bits by the output function of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    z: NDArray[np.uint64] = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def random_bits(seed: int, indices: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """Return 64 bits each, (n, count), that depend on (seed, index, column) alone, on every machine."""
    start = splitmix64(np.array([seed % 2**64], np.uint64) + GOLDEN)
    rows = splitmix64(start ^ splitmix64(indices + GOLDEN))
    columns = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    return splitmix64(rows[:, None] + columns)


def uniform(seed: int, indices: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1), (n, count), that depend on (seed, index, column) alone, on every machine."""
    numbers: NDArray[np.float64] = (random_bits(seed, indices, count) >> np.uint64(11)) * 2.0**-53
    return numbers


# ---- correlation -----------------------------------------------------------------------------------------------------


class Tie(NamedTuple):
    """`child` depends on `parent`, and occurs as often as if it did not.

    With p and q, how often parent and child occur, and κ = √(q(1−q) / (p(1−p))),

        P(child = 1 | parent = a) = q + ρ κ (a − p)

    has mean q and gives φ(parent, child) = ρ.
    """

    parent: str
    child: str
    rho: float
    p: float
    q: float

    @property
    def slope(self) -> float:
        """κ."""
        return float((self.q * (1 - self.q) / (self.p * (1 - self.p))) ** 0.5)

    @property
    def reachable(self) -> tuple[float, float]:
        """Return the lowest and highest ρ for which both conditional probabilities lie in [0, 1]."""
        p, q = self.p, self.q
        present, absent = self.slope * (1 - p), self.slope * p
        return -min(q / present, (1 - q) / absent), min((1 - q) / present, q / absent)

    def chance(self, parent: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return P(child = 1) for each value of the parent."""
        p, q = self.p, self.q
        return np.where(parent, q + self.rho * self.slope * (1 - p), q - self.rho * self.slope * p)


def _parse(pair: str, rho: float, marginals: Mapping[str, float]) -> Tie:
    names = [name.strip() for name in pair.split(",")]
    if len(names) != 2 or names[0] == names[1]:
        raise InvalidOptionError(
            f"data.correlation has the key {pair!r}; write two attributes, as in 'Black_Hair,Smiling'"
        )
    for name in names:
        if name not in MARGINALS:
            raise InvalidOptionError(f"data.correlation names {name!r}; the attributes are {', '.join(ATTRIBUTES)}")
    parent, child = names if names[1] in FREE else names[::-1]
    if child not in FREE:
        raise InvalidOptionError(
            f"data.correlation {pair!r} ties two attributes that belong to groups; one must be of {', '.join(FREE)}"
        )
    return _within_reach(Tie(parent, child, float(rho), marginals[parent], marginals[child]))


def _within_reach(tie: Tie) -> Tie:
    low, high = tie.reachable
    if not low - 1e-9 <= tie.rho <= high + 1e-9:
        raise InvalidOptionError(
            f"data.correlation '{tie.parent},{tie.child}' is {tie.rho:g}; "
            f"with how often each occurs it must lie in [{low:.3f}, {high:.3f}]"
        )
    return tie


def ties(correlation: dict[str, float] | None, marginals: Mapping[str, float] = MARGINALS) -> list[Tie]:
    """Return the pairs of `correlation` in an order in which every parent comes before its child."""
    pending = [_parse(pair, rho, marginals) for pair, rho in (correlation or {}).items()]
    children = [tie.child for tie in pending]
    for child in children:
        if children.count(child) > 1:
            raise InvalidOptionError(f"data.correlation ties {child} twice; keep one pair in which it comes second")
    ordered: list[Tie] = []
    while pending:
        waiting = {tie.child for tie in pending}
        ready = [tie for tie in pending if tie.parent not in waiting]
        if not ready:
            raise InvalidOptionError(
                f"data.correlation goes in a circle through {', '.join(sorted(waiting))}; drop a pair"
            )
        ordered += ready
        pending = [tie for tie in pending if tie not in ready]
    return ordered


CAUSES = len(GROUPS) + len(FREE)
"""Random numbers that `hold` needs."""


def hold(
    chance: NDArray[np.float64], tied: list[Tie], marginals: Mapping[str, float] = MARGINALS
) -> dict[str, NDArray[np.bool_]]:
    """Return which attributes hold, (n,) each, from random numbers in [0, 1), (n, CAUSES), one a group or attribute."""
    held: dict[str, NDArray[np.bool_]] = {}
    for u, group in zip(chance[:, : len(GROUPS)].T, GROUPS.values(), strict=True):
        low = 0.0
        for name in group:
            held[name], low = (low <= u) & (u < low + marginals[name]), low + marginals[name]
    columns = dict(zip(FREE, chance[:, len(GROUPS) :].T, strict=True))
    for name in FREE:
        held[name] = columns[name] < marginals[name]
    for tie in tied:
        held[tie.child] = columns[tie.child] < tie.chance(held[tie.parent])
    return held
