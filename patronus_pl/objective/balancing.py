"""Weights under which attributes that the data tie together are independent.

Notation: k attributes make 2^k combinations, the cells; p(cell) is how often one occurs, Π p(a_j) how often it would if
the attributes were independent and each as common as it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.errors import InvalidOptionError

MOST = 8
"""Attributes that can be balanced at once: of 256 combinations most are rare already."""
LARGEST = 10.0
"""No image weighs more than this, however rare its combination: a few would decide everything."""


def cells(attributes: Float[Tensor, "b k"]) -> Int[Tensor, " b"]:
    """Return Σ_j a_j 2^j, which of the 2^k combinations each row holds; -1 where an attribute is unknown (NaN)."""
    places = 2 ** torch.arange(attributes.shape[1], device=attributes.device)
    codes = ((attributes == 1) * places).sum(1)
    return codes.where(~attributes.isnan().any(1), -1)


def joint_frequencies(attributes: Float[Tensor, "n k"]) -> Float[Tensor, " cells"]:
    """Return p(cell), shape (2^k,), over the rows whose attributes are all known."""
    codes = cells(attributes)
    counts = torch.bincount(codes[codes >= 0], minlength=2 ** attributes.shape[1])
    return counts / counts.sum().clamp_min(1)


def independent_frequencies(frequencies: Float[Tensor, " cells"]) -> Float[Tensor, " cells"]:
    """Return Π_j p(a_j), shape (2^k,): the product of the marginals of p(cell)."""
    codes = torch.arange(len(frequencies), device=frequencies.device)
    holds = (codes[:, None] >> torch.arange(len(frequencies).bit_length() - 1, device=codes.device)) & 1 == 1
    share = (frequencies[:, None] * holds).sum(0)
    return share.where(holds, 1 - share).prod(1)


def balancing_weights(
    attributes: Float[Tensor, "b k"], frequencies: Float[Tensor, " cells"], largest: float = LARGEST
) -> Float[Tensor, " b"]:
    """Return w_i = Π_j p(a_ij) / p(cell of i), at most `largest`: weighted by w, the attributes are independent.

    A cell that never occurs cannot be mended, nor one so rare that its weight is cut off: if no picture shows black
    hair without a smile, no weights can tell the two apart, and a tie remains.

    Args:
        attributes: 0 or 1; a row of which one is unknown (NaN) gets weight 0.
        frequencies: p(cell) of the data, as `joint_frequencies` counts them.
        largest: no weight exceeds it.
    """
    wanted = independent_frequencies(frequencies)
    weight = (wanted / frequencies.clamp_min(torch.finfo(frequencies.dtype).tiny)).clamp_max(largest)
    codes = cells(attributes)
    return weight[codes.clamp_min(0)].where(codes >= 0, 0.0)


def check_names(names: Sequence[str]) -> None:
    """Refuse names that cannot be balanced whatever the data.

    Raises:
        InvalidOptionError: fewer than two names, too many, or one twice.
    """
    if not 2 <= len(set(names)) == len(names) <= MOST:
        raise InvalidOptionError(f"objective.decorrelation.balance is {names}; name 2 to {MOST} different attributes")


def columns_of(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Return the column of each attribute to balance among those that the data have.

    Raises:
        InvalidOptionError: a name that is not known.
    """
    for name in names:
        if name not in known:
            raise InvalidOptionError(
                f"objective.decorrelation.balance names {name!r}; the data have the attributes "
                f"{', '.join(known) or '(none)'}"
            )
    return [known.index(name) for name in names]


class Balance(NamedTuple):
    """Which attributes of a table to treat as independent, and how often their values occur together in it."""

    columns: list[int]
    frequencies: Float[Tensor, " cells"]

    @classmethod
    def of(cls, columns: list[int], attributes: Float[Tensor, "n a"]) -> "Balance":
        """Count how often the values of the given columns of a table occur together."""
        return cls(columns, joint_frequencies(attributes[:, columns]))

    def weights(self, attributes: Float[Tensor, "b a"]) -> Float[Tensor, " b"]:
        """Return the `balancing_weights` of rows that have all attributes of the table."""
        chosen = attributes[:, self.columns]
        return balancing_weights(chosen, self.frequencies.to(chosen, non_blocking=True))
