"""`Ranks`: one command shared by the processes that `torchrun` or SLURM's `srun` started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch import distributed

from patronus_pl.hardware import device_of


class Ranks(NamedTuple):
    """Which of the processes this is.

    Attributes:
        rank: its number among all.
        size: how many there are; 1 where nothing started more.
        local: its number on this machine, and that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    def device(self, name: str) -> torch.device:
        """`device_of(name)`, where each process has a GPU of its own unless the name says which."""
        device = device_of(name)
        return torch.device("cuda", self.local) if device.type == "cuda" and device.index is None else device

    def share(self, count: int) -> range:
        """The rows of this process: every row is taken by exactly one."""
        return range(self.rank, count, self.size)

    def gather(self, mine: Any) -> list[Any]:
        """What all have, in the order of ranks; on other processes than the first, nothing."""
        if self.size == 1:
            return [mine]
        everyone = [None] * self.size if self.rank == 0 else None
        distributed.gather_object(mine, everyone)
        return everyone or []

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process before the others: what it downloads or caches, they find."""
        if self.size > 1 and self.rank > 0:
            distributed.barrier()
        try:
            yield
        finally:
            if self.size > 1 and self.rank == 0:
                distributed.barrier()


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """Meet the other processes that were started for this command, if there are any."""
    ranks = _of_this_process()
    joins = ranks.size > 1 and not distributed.is_initialized()
    if joins:
        # Only numbers that are in memory anyway are exchanged: gloo does that on any machine.
        distributed.init_process_group("gloo", rank=ranks.rank, world_size=ranks.size)
    try:
        yield ranks
    finally:
        if joins:
            distributed.destroy_process_group()


def _of_this_process() -> Ranks:
    if "RANK" not in os.environ and SLURMEnvironment.detect():
        slurm = SLURMEnvironment()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
        return Ranks(slurm.global_rank(), slurm.world_size(), slurm.local_rank())
    return Ranks(
        *(int(os.environ.get(name, alone)) for name, alone in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    )
