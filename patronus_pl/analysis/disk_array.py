"""`DiskArray`: pictures that wait in a temporary file until they are shown."""

import math
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class DiskArray:
    """An array in a temporary file. The file is deleted with the array.

    A report draws pictures of every prototype and shows them one prototype after the other, so that the memory it takes
    must not grow with their number. `array[j]` and `array[j, k]` read a copy of a part and set it, as for a tensor;
    only that part is mapped into memory.

    Args:
        shape: shape of the whole array, which starts as zeros.
        dtype: type of its values.

    Raises:
        OSError: the disk has no room for the array. Where the system can reserve room, that is known at once.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> None:
        self.shape, self.dtype = torch.Size(shape), dtype
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the array is)
        weakref.finalize(self, self._file.close)
        size = math.prod(self.shape) * dtype.itemsize
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), 0, size)  # a full disk would end the process at a later write
        else:
            self._file.truncate(size)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, index: int | tuple[int, ...]) -> Tensor:
        """Return a copy of a part."""
        return torch.from_numpy(np.array(self._part(index)))

    def __setitem__(self, index: int | tuple[int, ...], value: Tensor) -> None:
        part = self._part(index)
        part[...] = value.cpu().to(self.dtype).expand(part.shape).numpy()

    def _part(self, index: int | tuple[int, ...]) -> NDArray[Any]:
        """Map a part into memory, for as long as the result lives."""
        first = index if isinstance(index, tuple) else (index,)
        if not all(0 <= k < length for k, length in zip(first, self.shape, strict=False)):
            raise IndexError(f"{first} of {tuple(self.shape)}")
        part, numpy_type = self.shape[len(first) :], torch.empty(0, dtype=self.dtype).numpy().dtype
        if not part.numel():
            return np.empty(part, numpy_type)
        row = int(np.ravel_multi_index(first, self.shape[: len(first)]))
        return np.memmap(self._file, numpy_type, "r+", row * part.numel() * self.dtype.itemsize, tuple(part))
