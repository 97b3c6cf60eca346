"""Which prototype reads which attribute."""

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
