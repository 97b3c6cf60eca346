"""Share one command among the processes that `torchrun` or SLURM's `srun` started for it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch import distributed

from patronus_pl.ranks import Ranks


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """Connect this process with the others that were started for the same command, if there are any."""
    ranks = _of_this_process()
    joins = ranks.size > 1 and not distributed.is_initialized()
    if joins:
        distributed.init_process_group("gloo", rank=ranks.rank, world_size=ranks.size)
    try:
        yield Ranks.met(ranks.local)
    finally:
        if joins:
            leave_process_group()


def leave_process_group() -> None:
    """Close the connection between the processes before the interpreter shuts down.

    Gloo's threads may hold tensors, and one that is freed during shutdown aborts the process. Lightning closes NCCL's
    connection only (pytorch/pytorch#179291).
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _of_this_process() -> Ranks:
    if "RANK" not in os.environ and SLURMEnvironment.detect():
        slurm = SLURMEnvironment()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
        return Ranks(slurm.global_rank(), slurm.world_size(), slurm.local_rank())
    return Ranks(
        *(int(os.environ.get(name, alone)) for name, alone in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    )
