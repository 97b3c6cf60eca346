"""Tables of activations and attributes: their types, their checks and their standardisation.

A table has one row an image: activations (n, m), attributes (n, a) with values 0, 1 or NaN (unknown).
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from patronus_pl.errors import AttributeTableError, InvalidOptionError

Table = Shaped[np.ndarray, "_ _"] | Shaped[Tensor, "_ _"]
"""One row an image, NumPy or torch, any numeric type."""
Labels = Table | Shaped[np.ndarray, " _"] | Shaped[Tensor, " _"]
"""Attributes (n, a), or one class number an image (n,)."""
Array = NDArray[np.float64]

SMALLEST_STD = 1e-6
"""The standard deviation of a constant column is set to this, so that the column becomes 0 instead of NaN."""


def mean_and_std(s: Float[Tensor, "n m"]) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Return the mean and the standard deviation of each column, by which `(s - mean) / std` is standardised.

    The deviation divides by n, not by n - 1, as scikit-learn's `StandardScaler` does, and is at least 1e-6.

    Args:
        s: activations, shape (n, m).

    Returns:
        Two tensors of shape (m,).

    Example:
        >>> import torch
        >>> mean, std = mean_and_std(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
        >>> mean
        tensor([1., 5.])
        >>> std
        tensor([1.0000e+00, 1.0000e-06])
    """
    return s.mean(0), s.std(0, correction=0).clamp_min(SMALLEST_STD)


def as_array(values: Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]) -> NDArray[Any]:
    """Turn a NumPy array or a tensor on any device into a NumPy array of the same type."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def as_float64(values: Labels) -> Array:
    """Turn a NumPy array or a tensor of any device and type (bfloat16 too) into a float64 NumPy array."""
    return as_array(values.double() if isinstance(values, Tensor) else values).astype(np.float64)


def check_activations(activations: Table) -> Array:
    """Return activations as float64.

    Raises:
        InvalidOptionError: a value is not finite; the message names the first such row.
    """
    x = as_float64(activations)
    broken = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(broken):
        raise InvalidOptionError(f"activations: row {broken[0]} is not finite ({len(broken)} such rows); drop them")
    return x


def check_attributes(attributes: Table) -> Array:
    """Return attributes as float64.

    Raises:
        AttributeTableError: a value is none of 0, 1 and NaN, or no attribute has both values.
    """
    y = as_float64(attributes)
    strange = y[~((y == 0) | (y == 1) | np.isnan(y))]
    if len(strange):
        raise AttributeTableError(f"attributes hold {strange[0]:g}; use 0, 1 or NaN (unknown); classes as a 1-D vector")
    if not varying(y).any():
        raise AttributeTableError(f"none of {y.shape[1]} attributes has both a 0 and a 1 in {len(y)} images; give more")
    return y


def check_rows(activations: int, labels: int, folds: int = 1, at_least: int = 1) -> None:
    """Check the numbers of rows against each other and against the number of folds.

    Args:
        activations: number of rows of activations.
        labels: number of rows of labels.
        folds: parts into which the rows are split.
        at_least: smallest number of folds that makes sense.

    Raises:
        InvalidOptionError: the numbers of rows differ, or there are too few or too many folds.
    """
    if activations != labels:
        raise InvalidOptionError(f"{activations} rows of activations but {labels} of labels; give one each an image")
    if not at_least <= folds <= activations:
        raise InvalidOptionError(f"folds is {folds}; with {activations} images choose {at_least}..{activations}")


def varying(attributes: Array) -> NDArray[np.bool_]:
    """Return for each attribute whether it has both values, shape (a,); where it has not, its AUROC is undefined."""
    both: NDArray[np.bool_] = (attributes == 0).any(axis=0) & (attributes == 1).any(axis=0)
    return both


def nanmean(values: Array, axis: int) -> Array:
    """Return the mean over the known values along an axis; NaN, without a warning, where none is known."""
    known = ~np.isnan(values)
    count, total = np.sum(known, axis=axis), np.sum(np.where(known, values, 0.0), axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
