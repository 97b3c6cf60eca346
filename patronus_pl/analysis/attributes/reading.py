"""Which prototype reads which attribute best."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import auroc
from patronus_pl.types import Activations, Attributes


@dataclass(frozen=True)
class AttributeReading:
    """What `best_attribute` found, for a attributes and m prototypes. An AUROC of either sign is max(AUROC, 1 − AUROC).

    Attributes:
        names: names of the a attributes.
        auroc: (a, m) AUROC of each prototype for each attribute, in [0, 1]; NaN where an attribute has one value only.
        attribute: (m,) index of the attribute that each prototype predicts best; -1 if no attribute varies.
        attribute_auroc: (m,) the AUROC of either sign of that prediction; NaN if no attribute varies.
        attribute_sign: (m,) 1 if a high activation means that the attribute is present, -1 if it is absent.
        prototype: (a,) index of the prototype that predicts each attribute best; -1 if the attribute does not vary.
        prototype_auroc: (a,) the AUROC of either sign of that prediction; NaN if the attribute does not vary.
        prototype_sign: (a,) 1 if a high activation means that the attribute is present, -1 if it is absent.
        runner_up_auroc: (a,) AUROC of either sign of the next best prototype; 0.5 (chance) if there is only one.
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
        """AUROC by which the best prototype of each attribute is ahead of the next, shape (a,)."""
        return self.prototype_auroc - self.runner_up_auroc


def best_attribute(activations: Activations, attributes: Attributes, names: Sequence[str]) -> AttributeReading:
    """Find for each prototype the attribute that it predicts best, and for each attribute its two best prototypes.

    Args:
        activations: shape (n, m).
        attributes: shape (n, a), of 0, 1 and NaN (unknown: the image is left out for that attribute).
        names: names of the attributes.

    Raises:
        InvalidOptionError: there are not as many names as attributes, or not as many activations as labels.
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
    """Return of each row the column with the AUROC furthest from 0.5 (-1 if all are NaN), this AUROC, and its sign."""
    table = torch.cat([table, table.new_full((len(table), 1), torch.nan)], dim=1)  # there may be no column
    best, column = torch.maximum(table, 1 - table).nan_to_num(0.0).max(1)
    sign = torch.where(table.gather(1, column[:, None])[:, 0] < 0.5, -1, 1)
    return column.where(best > 0, -1), best.where(best > 0, torch.nan), sign
