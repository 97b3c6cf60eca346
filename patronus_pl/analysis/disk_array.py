"""`DiskArray`: pictures that wait in a file until they are shown."""

import math
import tempfile
import weakref
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class DiskArray:
    """An array in a temporary file that goes when the array does, read and written some of its rows at a time.

    Every prototype has pictures, and a page shows them one prototype after the other: what a report holds in memory
    must not grow with their number. `spool[j]` and `spool[j, k]` are read and set as a tensor's are.

    Args:
        shape: of the whole array, which starts as zeros.
        dtype: of its values.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> None:
        self.shape, self.dtype = torch.Size(shape), dtype
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the array is)
        weakref.finalize(self, self._file.close)
        self._file.truncate(math.prod(self.shape) * dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[k] for k in range(len(self)))

    def _seek(self, index: int | tuple[int, ...]) -> torch.Size:
        """Go where a part begins; returns its shape."""
        first = index if isinstance(index, tuple) else (index,)
        start = 0
        for k, length in zip(first, self.shape, strict=False):
            if not 0 <= k < length:
                raise IndexError(f"{first} of {tuple(self.shape)}")
            start = start * length + k
        part = self.shape[len(first) :]
        self._file.seek(start * math.prod(part) * self.dtype.itemsize)
        return part

    def __getitem__(self, index: int | tuple[int, ...]) -> Tensor:
        """A copy of a part."""
        part = self._seek(index)
        values = bytearray(self._file.read(math.prod(part) * self.dtype.itemsize))
        flat = torch.frombuffer(values, dtype=self.dtype) if values else torch.empty(0, dtype=self.dtype)
        return flat.reshape(part)

    def __setitem__(self, index: int | tuple[int, ...], value: Tensor) -> None:
        part = self._seek(index)
        self._file.write(value.cpu().to(self.dtype).expand(part).contiguous().numpy().tobytes())
