"""How a number was measured: how much (`Plan`), on which pixels, with which versions; and plain values for JSON."""

import hashlib
import math
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from patronus_pl.analysis.subject import Subject
from patronus_pl.errors import PatronusError
from patronus_pl.types import ImageBytes

Section = dict[str, Any]
"""Part of an evaluation: numbers, and the `protocol` that they were measured by."""

DIGITS = 6
"""Significant digits of an evaluation: the last bits differ between numbers of threads."""
CORE = ("patronus-pl", "torch", "numpy")
PACKAGES = (*CORE, "scipy", "scikit-learn", "torchmetrics", "lightning")


class Picked(NamedTuple):
    """The first images of a split."""

    images: UInt8[np.ndarray, "n c h w"]
    attributes: Float[np.ndarray, "n a"]
    split: str

    @classmethod
    def first(cls, subject: Subject, count: int | None) -> "Picked":
        """At most that many; None takes all."""
        split = str(subject.description.get("split", "unknown"))
        return cls(np.array(subject.images[:count]), np.array(subject.attributes[:count]), split)

    @property
    def bytes(self) -> ImageBytes:
        """(n, c, h, w) as a tensor."""
        return torch.from_numpy(self.images)

    def protocol(self) -> dict[str, Any]:
        """Which images these are: the hash sees the selection, its order and every step of preprocessing."""
        return {"split": self.split, "n": len(self.images), "pixels": pixel_hash(self.images)}


def pixel_hash(images: UInt8[np.ndarray, "n c h w"]) -> str:
    """16 hex digits of the shape and of every byte."""
    digest = hashlib.sha256(str(images.shape).encode())
    for start in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[start : start + 1024]).data)
    return digest.hexdigest()[:16]


def array_hash(values: NDArray[Any]) -> str:
    """16 hex digits of the shape, the type and every byte."""
    digest = hashlib.sha256(f"{values.shape} {values.dtype}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:16]


def made_with() -> dict[str, Any]:
    """Versions of what computes, and the commit of the source if it lies in a repository."""
    return {"versions": versions(PACKAGES), "commit": commit()}


def versions(packages: Sequence[str] = CORE) -> dict[str, str]:
    """Of packages, and of Python."""
    return {**{name: version(name) for name in packages}, "python": platform.python_version()}


def commit() -> str | None:
    """The commit that is checked out where the package lies; None where there is none."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def plain(value: Any, digits: int | None = None) -> Any:
    """Values that JSON knows: NaN and infinities None, arrays as lists; floats of `digits` significant ones, or all."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return plain(value.tolist(), digits)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {str(key): plain(entry, digits) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, digits) for entry in value]
    return value


def attempt(measure: Callable[[], Any]) -> Any:
    """What it measures, or why these data do not allow that."""
    try:
        return measure()
    except PatronusError as error:
        return {"absent": str(error)}


FOLDS = 5
"""Of a linear probe."""
