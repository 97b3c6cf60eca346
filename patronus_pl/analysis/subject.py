"""`Subject`: the images that a model is explained with, and what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from patronus_pl.pixels import as_floats
from patronus_pl.types import Image

MASKED = 512
"""How many images have their parts looked at, the first ones."""


@runtime_checkable  # the tests check types at run time
class ImageSource(Protocol):
    """What `Subject.of` needs of a data module. `ImageDataModule` has it; this folder must not import that class."""

    @property
    def attribute_names(self) -> Sequence[str]:
        """Names of all attributes."""

    @property
    def attribute_kind(self) -> Sequence[str]:
        """Kind of each attribute: `local`, `global` or `unknown`."""

    def table(self, split: str) -> Any:
        """Return the images, attributes and ids of a split."""

    def describe(self) -> dict[str, Any]:
        """Return what decides the images, such as name, size and seed."""

    def attribute_masks(self, split: str, rows: Int[np.ndarray, " k"]) -> Bool[np.ndarray, "k a h w"] | None:
        """Return the part of each image that shows each attribute; None where no parts are known."""


@dataclass(frozen=True)
class Subject:
    """The images that a model is explained with, and what is known of them.

    Attributes:
        images: (n, c, h, w) bytes; a memory map will do. The first ones are shown and edited.
        attributes: (n, a) of 0, 1 and NaN (unknown); a may be 0.
        ids: n names.
        attribute_names: a names.
        attribute_kind: a of `local`, `global`, `unknown`; or none.
        description: what decides the images, as `ImageDataModule.describe` gives it.
        masks: (k, a, h, w) the part that shows each attribute in the first k images, empty for an attribute that has no
            part; None if no parts are known.
    """

    images: UInt8[np.ndarray, "n c h w"]
    attributes: Float[np.ndarray, "n a"]
    ids: Sequence[str]
    attribute_names: Sequence[str] = ()
    attribute_kind: Sequence[str] = ()
    description: dict[str, Any] = field(default_factory=dict)
    masks: Bool[np.ndarray, "k a h w"] | None = None

    @classmethod
    def of(cls, data: ImageSource, split: str, n: int | None = None) -> "Subject":
        """Take the first n images of a split (None: all), with their attributes, ids and parts."""
        table = data.table(split)
        rows = np.arange(len(table) if n is None else min(n, len(table)))
        return cls(
            images=table.images if len(rows) == len(table) else table.subset(rows).images,  # a subset is a copy
            attributes=table.attributes[rows],
            ids=table.ids[: len(rows)],
            attribute_names=data.attribute_names,
            attribute_kind=data.attribute_kind,
            description={**data.describe(), "split": split},
            masks=data.attribute_masks(split, rows[:MASKED]),
        )

    def first(self, count: int) -> Image:
        """Return the first images as floats in [-1, 1], shape (count, c, h, w)."""
        return as_floats(torch.from_numpy(np.ascontiguousarray(self.images[:count])))
