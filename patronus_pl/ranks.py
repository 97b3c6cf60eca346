"""`Ranks`: work shared by the processes of one command, which any launcher may have started."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, zip_longest
from typing import Any, NamedTuple, TypeVar

import torch
from torch import distributed

from patronus_pl.hardware import device_of

T = TypeVar("T")
PATIENCE = timedelta(days=7)
"""How long processes wait for each other: what one of them measures alone may take hours."""


class Ranks(NamedTuple):
    """Which of the processes this is.

    Attributes:
        rank: its number among all.
        size: how many there are; 1 where nothing started more.
        local: its number on this machine, and that of its GPU.
        group: what connects them.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    group: Any = None

    @classmethod
    def met(cls, local: int = 0) -> "Ranks":
        """The processes that torch has connected, as Lightning makes it do; without any, this one alone."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        # Only numbers that are in memory anyway are exchanged: gloo does that on any machine.
        group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        return cls(distributed.get_rank(), distributed.get_world_size(), local, group)

    def device(self, name: str) -> torch.device:
        """`device_of(name)`, where each process has a GPU of its own unless the name says which."""
        device = device_of(name)
        return torch.device("cuda", self.local) if device.type == "cuda" and device.index is None else device

    def share(self, count: int) -> range:
        """The rows of this process: every row is taken by exactly one."""
        return range(self.rank, count, self.size)

    def batches(self, count: int, batch_size: int) -> list[range]:
        """The rows of this process in whole batches: the very batches, and so the same rounding, of one process."""
        return [range(k, min(k + batch_size, count)) for k in range(0, count, batch_size)[self.rank :: self.size]]

    def gather(self, mine: T) -> list[T]:
        """What all have, in the order of ranks; on other processes than the first, nothing."""
        if self.size == 1:
            return [mine]
        everyone: Any = [None] * self.size if self.rank == 0 else None
        distributed.gather_object(mine, everyone, group=self.group)
        return everyone or []

    def in_turn(self, mine: Sequence[T]) -> list[T]:
        """What all have of `share` or `batches`, in the order of one process; elsewhere than on the first, nothing."""
        turns = zip_longest(*self.gather(mine))
        return [part for part in chain.from_iterable(turns) if part is not None]

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process before the others: what it downloads or caches, they find."""
        if self.size > 1 and self.rank > 0:
            distributed.barrier(self.group)
        try:
            yield
        finally:
            if self.size > 1 and self.rank == 0:
                distributed.barrier(self.group)
