"""Balanced sampling: keep some of many activations, so that attributes that the data tie together are independent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from patronus_pl.analysis.attributes.judges import AttributeReader
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import linear_probe
from patronus_pl.objective.balancing import cells, independent_frequencies, joint_frequencies
from patronus_pl.types import Activations, Attributes


@dataclass(frozen=True)
class Balanced:
    """What `balance` chose, for N candidates and k attributes.

    Attributes:
        rows: (n,) indices of the candidates to keep.
        read: (N, k) the attributes that a linear probe reads in each candidate, 0 or 1.
        auroc: (k,) AUROC of such probes on real images that they were not fitted on.
    """

    rows: Int[Tensor, " n"]
    read: Float[Tensor, "N k"]
    auroc: Float[Tensor, " k"]


def balance(
    s: Float[Tensor, "N m"],
    known: Float[Tensor, "r m"],
    attributes: Float[Tensor, "r k"],
    names: Sequence[str],
    n: int,
    seed: int = 0,
) -> Balanced:
    """Keep n candidates so that the attributes that a linear probe reads in them are independent.

    The probe is fitted on real images in which the attributes are tied. Where it is unsure of one attribute it leans
    towards what goes with the other. That is right, for the candidates are tied as well: otherwise misread candidates
    of common combinations would fill the rare ones. The kept rows are as independent as the probe reads well.

    Args:
        s: activations of the N candidates, shape (N, m).
        known: activations of real images, shape (r, m).
        attributes: labels of these images, shape (r, k), of 0, 1 and NaN (unknown).
        names: names of the attributes.
        n: number of candidates to keep.
        seed: seed of all choices.

    Raises:
        InvalidOptionError: no candidate shows some combination of the attributes.
    """
    read = read_attributes(s, known, attributes)
    quality = torch.from_numpy(linear_probe(known, attributes, seed=seed).per_attribute).float()
    return Balanced(balanced_rows(read, names, n, seed), read, quality)


def read_attributes(s: Float[Tensor, "N m"], known: Activations, attributes: Attributes) -> Float[Tensor, "N a"]:
    """Return 0 or 1 for each row of s and attribute, by logistic regressions fitted on real images."""
    return (AttributeReader(known, attributes)(s) > 0).float()


def balanced_rows(attributes: Float[Tensor, "N k"], names: Sequence[str], n: int, seed: int = 0) -> Int[Tensor, " n"]:
    """Choose rows in which the attributes are independent, and each is as common as in all rows.

    Each combination gets n Π_j p(a_j) rows, rounded so that they add up to n. They are drawn at random without
    repetition; where there are too few, all are taken about equally often.

    Args:
        attributes: shape (N, k), of 0 and 1; rows with an unknown attribute (NaN) are not taken.
        names: names of the attributes.
        n: number of rows to choose.
        seed: seed of choice and order.

    Raises:
        InvalidOptionError: a combination does not occur.
    """
    codes = cells(attributes).numpy()
    share = independent_frequencies(joint_frequencies(attributes).double()).numpy()
    counts = np.bincount(codes[codes >= 0], minlength=len(share))
    lacking = np.flatnonzero(counts == 0)
    if len(lacking):
        raise InvalidOptionError(
            f"of {len(codes)} candidates none shows {_described(int(lacking[0]), names)}, so that {', '.join(names)} "
            "cannot be balanced; draw more candidates, or name attributes of which every combination occurs"
        )
    rng = np.random.default_rng(seed)
    chosen = [
        np.resize(rng.permutation(np.flatnonzero(codes == cell)), due) for cell, due in enumerate(_rounded(share * n))
    ]
    return torch.from_numpy(rng.permutation(np.concatenate(chosen)))


def _rounded(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round to whole numbers of the same sum: the largest remainders are rounded up (Hamilton's method)."""
    whole = np.floor(shares).astype(np.int64)
    missing = round(float(shares.sum())) - int(whole.sum())
    whole[np.argsort(whole - shares, kind="stable")[:missing]] += 1
    return whole


def _described(cell: int, names: Sequence[str]) -> str:
    return " and ".join(name if cell >> j & 1 else f"no {name}" for j, name in enumerate(names))
