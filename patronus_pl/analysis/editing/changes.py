"""`Change`: what an edit asks of one prototype, and the activations that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Activations


@dataclass(frozen=True)
class Change:
    """A new activation for one prototype.

    Attributes:
        prototype: its index.
        to: what `value` means. `absolute`: it is the activation; `range`: 0 is the low and 1 the high end of the
            prototype's own range, and other numbers lie beyond; `quantile`: it is a quantile of the prototype's
            activations in a reference set; `factor`: the image's activation is multiplied by it; `remove`: there is no
            value, the activation becomes the low end of the range.
        value: the number; `remove` ignores it.
        guidance: weight by which the edit is exaggerated; 1 does not.
    """

    prototype: int
    to: Literal["absolute", "range", "quantile", "factor", "remove"]
    value: float = 0.0
    guidance: float = 1.0


def set_activations(
    s: Activations,
    changes: Sequence[Change],
    low: Float[Tensor, " m"],
    high: Float[Tensor, " m"],
    reference: Float[Tensor, "n m"] | None = None,
) -> Activations:
    """Return activations after the changes, applied in their order; all others stay as they are. Shape (b, m).

    Args:
        s: (b, m) activations before.
        changes: what to change.
        low: (m,) the low ends of the ranges, `model.activation_low`.
        high: (m,) the high ends, `model.activation_high`.
        reference: (n, m) activations of a data set, which `quantile` needs.

    >>> low, high = torch.zeros(2), torch.tensor([4.0, 8.0])
    >>> set_activations(torch.ones(1, 2), [Change(1, "range", 0.5)], low, high)
    tensor([[1., 4.]])

    Raises:
        InvalidOptionError: a prototype that does not exist, an unknown kind of change, a quantile outside [0, 1] or
            without a reference.
    """
    s = s.clone()
    for change in changes:
        if not 0 <= change.prototype < s.shape[1]:
            raise InvalidOptionError(f"there is no prototype {change.prototype}; choose 0..{s.shape[1] - 1}")
        s[:, change.prototype] = _target(s, change, low.to(s), high.to(s), reference)
    return s


def _target(s: Tensor, change: Change, low: Tensor, high: Tensor, reference: Tensor | None) -> Tensor:
    j, value = change.prototype, change.value
    if change.to == "absolute":
        return torch.full_like(s[:, j], value)
    if change.to == "factor":
        return s[:, j] * value
    if change.to in ("range", "remove"):
        return (low + (value if change.to == "range" else 0.0) * (high - low))[j].expand(len(s))
    if change.to != "quantile":
        raise InvalidOptionError(f"unknown change {change.to!r}; choose absolute, range, quantile, factor or remove")
    if reference is None or not 0 <= value <= 1:
        raise InvalidOptionError(f"quantile {value} of prototype {j}: choose 0 to 1, and give reference activations")
    return reference[:, j].quantile(value).to(s).expand(len(s))


def chosen(model: PatronusModule, prototypes: Sequence[int] | None) -> list[int]:
    """Return the indices of the prototypes that are asked for; None asks for all.

    Raises:
        InvalidOptionError: a prototype that does not exist.
    """
    count = model.prototypes.count
    indices = list(range(count)) if prototypes is None else [int(j) for j in prototypes]
    for j in indices:
        if not 0 <= j < count:
            raise InvalidOptionError(f"there is no prototype {j}; choose 0..{count - 1}")
    return indices
