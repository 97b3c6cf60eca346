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
"""Images whose parts are looked at."""


@runtime_checkable  # the tests check types at run time
class ImageSource(Protocol):
    """What `Subject.of` asks of the data: an `ImageDataModule`, which this folder does not import."""

    @property
    def attribute_names(self) -> Sequence[str]:
        """Of all attributes."""

    @property
    def attribute_kind(self) -> Sequence[str]:
        """Of each attribute: `local`, `global`, `unknown`."""

    def table(self, split: str) -> Any:
        """Images, attributes and ids."""

    def describe(self) -> dict[str, Any]:
        """What decides the images."""

    def attribute_masks(self, split: str, rows: Int[np.ndarray, " k"]) -> Bool[np.ndarray, "k a h w"] | None:
        """The part that shows each attribute; None where no parts are known."""


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
        """The first n images of a split (None: all), with what the data know of them."""
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
        """The first images, in [-1, 1]."""
        return as_floats(torch.from_numpy(np.ascontiguousarray(self.images[:count])))
