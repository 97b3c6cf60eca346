"""`all_ranks`: one command shared by the processes that `torchrun` or SLURM's `srun` started; `part`: its end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch import distributed

from patronus_pl.ranks import Ranks


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """Meet the other processes that were started for this command, if there are any."""
    ranks = _of_this_process()
    joins = ranks.size > 1 and not distributed.is_initialized()
    if joins:
        distributed.init_process_group("gloo", rank=ranks.rank, world_size=ranks.size)
    try:
        yield Ranks.met(ranks.local)
    finally:
        if joins:
            part()


def part() -> None:
    """Take down what connects the processes, while Python is whole.

    Gloo's threads may hold tensors; one that is let go while the interpreter comes down aborts the process. Lightning
    takes down NCCL's connection alone (pytorch/pytorch#179291).
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
