"""Describe shapes by signed distances, from which `portraits` paints.

Notation: (u, v) is a point, v points down; d(u, v) is the signed distance to the edge of a shape, negative inside.
Only +, −, ×, ÷ and √ are used, which IEEE 754 rounds exactly: a shape is the same on every machine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32 at run time; the stubs widen float32 ∘ float


@dataclass(frozen=True)
class Shape:
    """A signed distance d(u, v), negative inside, and the rectangle outside of which it is positive.

    `a & b`, `a | b` and `a - b` are intersection, union and difference.
    """

    left: float
    top: float
    right: float
    bottom: float
    distance: Callable[[Array, Array], Array]

    def __and__(self, other: "Shape") -> "Shape":
        corners = max(self.left, other.left), max(self.top, other.top)
        opposite = min(self.right, other.right), min(self.bottom, other.bottom)
        return Shape(*corners, *opposite, lambda u, v: np.maximum(self.distance(u, v), other.distance(u, v)))

    def __or__(self, other: "Shape") -> "Shape":
        corners = min(self.left, other.left), min(self.top, other.top)
        opposite = max(self.right, other.right), max(self.bottom, other.bottom)
        return Shape(*corners, *opposite, lambda u, v: np.minimum(self.distance(u, v), other.distance(u, v)))

    def __sub__(self, other: "Shape") -> "Shape":
        return self.bounded(lambda u, v: np.maximum(self.distance(u, v), -other.distance(u, v)))

    def bounded(self, distance: Callable[[Array, Array], Array], margin: float = 0.0) -> "Shape":
        """Return a shape with another distance, whose bounds are these, moved out by `margin`."""
        left, top, right, bottom = self.left - margin, self.top - margin, self.right + margin, self.bottom + margin
        return Shape(left, top, right, bottom, distance)

    def inset(self, depth: float) -> "Shape":
        """Return the part of the shape that lies deeper than `depth`."""
        return self.bounded(lambda u, v: self.distance(u, v) + depth, -depth)

    def outline(self, half_width: float) -> "Shape":
        """Return a stroke along the edge of the shape."""
        return self.bounded(lambda u, v: np.abs(self.distance(u, v)) - half_width, half_width)

    def mirrored(self) -> "Shape":
        """Return the part right of u = 0 together with its mirror image."""
        return Shape(-self.right, self.top, self.right, self.bottom, lambda u, v: self.distance(np.abs(u), v))

    def sheared(self, slope: float) -> "Shape":
        """Return the slanted shape: horizontal lines rise by `slope` per unit to the right."""
        rise = abs(slope) * max(abs(self.left), abs(self.right))
        top, bottom = self.top - rise, self.bottom + rise
        return Shape(self.left, top, self.right, bottom, lambda u, v: self.distance(u, v + slope * u))


def circles(centres: tuple[tuple[float, float], ...], r: float) -> Shape:
    """√(min over centres of (u−x)² + (v−y)²) − r."""
    (x0, y0), *others = centres

    def distance(u: Array, v: Array) -> Array:
        nearest = (u - x0) ** 2 + (v - y0) ** 2
        for x, y in others:
            np.minimum(nearest, (u - x) ** 2 + (v - y) ** 2, out=nearest)
        return np.sqrt(nearest) - r

    xs, ys = zip(*centres, strict=True)
    return Shape(min(xs) - r, min(ys) - r, max(xs) + r, max(ys) + r, distance)


def circle(x: float, y: float, r: float) -> Shape:
    """√((u−x)² + (v−y)²) − r."""
    return circles(((x, y),), r)


def ellipse(x: float, y: float, a: float, b: float) -> Shape:
    """(q² − q) / √((u−x)²/a⁴ + (v−y)²/b⁴) with q² = (u−x)²/a² + (v−y)²/b²: the distance, to first order at the edge."""

    def distance(u: Array, v: Array) -> Array:
        across, down = ((u - x) / a) ** 2, ((v - y) / b) ** 2
        square = across + down
        return (square - np.sqrt(square)) / (np.sqrt(across / a**2 + down / b**2) + 1e-6)

    return Shape(x - a, y - b, x + a, y + b, distance)


def box(x: float, y: float, a: float, b: float, r: float) -> Shape:
    """√(max(p, 0)² + max(q, 0)²) + min(max(p, q), 0) − r with p = |u−x| − a + r, q = |v−y| − b + r.

    Half width a, half height b, corners of radius r ≤ min(a, b).
    """

    def distance(u: Array, v: Array) -> Array:
        p, q = np.abs(u - x) - (a - r), np.abs(v - y) - (b - r)
        outside: Array = np.sqrt(np.maximum(p, 0) ** 2 + np.maximum(q, 0) ** 2)
        inside: Array = np.minimum(np.maximum(p, q), 0)
        return outside + inside - r

    return Shape(x - a, y - b, x + a, y + b, distance)


def above(y: float) -> Shape:
    """Return the half-plane above the level y."""
    return Shape(-inf, -inf, inf, y, lambda u, v: v - y)


def below(y: float) -> Shape:
    """Return the half-plane below the level y."""
    return Shape(-inf, y, inf, inf, lambda u, v: y - v)


def squares(centres: tuple[tuple[float, float], ...], r: float) -> Shape:
    """Squares of half width r: d = min over centres of max(|u−x|, |v−y|) − r."""
    (x0, y0), *others = centres

    def distance(u: Array, v: Array) -> Array:
        nearest = np.maximum(np.abs(u - x0), np.abs(v - y0))
        for x, y in others:
            np.minimum(nearest, np.maximum(np.abs(u - x), np.abs(v - y)), out=nearest)
        signed: Array = nearest - r
        return signed

    xs, ys = zip(*centres, strict=True)
    return Shape(min(xs) - r, min(ys) - r, max(xs) + r, max(ys) + r, distance)


def cone(tip: float, base: float, half_width: float) -> Shape:
    """Return a triangle with its tip up: d = max((|u| h − a (v − tip)) / √(a² + h²), v − base), h = base − tip.

    a is `half_width`, that of the base.
    """
    h = base - tip
    side = (half_width**2 + h**2) ** 0.5

    def distance(u: Array, v: Array) -> Array:
        signed: Array = np.maximum((np.abs(u) * h - (v - tip) * half_width) / side, v - base)
        return signed

    return Shape(-half_width, tip, half_width, base, distance)
