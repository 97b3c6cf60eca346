"""`Batches`: loaders that share a table among devices, and that go on where a run was interrupted."""

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from patronus_pl.errors import InvalidOptionError


class Turns(DistributedSampler[int]):
    """Share the rows of a table among devices: each takes rows rank, rank + ranks, rank + 2 ranks, ... of one order.

    Without shuffling, exactly one device takes each row. With it, the order depends on seed and epoch alone, and all
    devices take equally many rows in whole batches: together they hold the rows that a single device would take in one
    larger batch. A resumed run therefore sees the images that it would have seen, on any number of devices. (torch's
    sampler, which Lightning would use instead, repeats rows until every device has equally many.)

    Args:
        count: how many rows there are.
        batch_size: rows per batch of one device.
        ranks: how many devices there are.
        rank: number of this device, from 0.
        shuffle_seed: seed of the order; None keeps the order of the table.

    Raises:
        InvalidOptionError: fewer rows than devices.
    """

    def __init__(
        self, count: int, batch_size: int, ranks: int = 1, rank: int = 0, shuffle_seed: int | None = None
    ) -> None:
        if count < ranks:
            raise InvalidOptionError(f"{count} image(s) cannot be shared by {ranks} devices; use at most {count}")
        super().__init__(range(count), ranks, rank, shuffle=False)  # type: ignore[arg-type]
        self.count, self.ranks, self.shuffle_seed = count, ranks, shuffle_seed
        together = batch_size * ranks
        self.used = count if shuffle_seed is None else count - count % (together if count > together else ranks)
        self._resumed = (-1, 0)

    def __len__(self) -> int:
        return len(range(self.rank, self.used, self.ranks))

    def __iter__(self) -> Iterator[int]:
        order: Sequence[int] = range(self.count)
        if self.shuffle_seed is not None:
            order = np.random.default_rng((self.shuffle_seed, self.epoch)).permutation(self.count).tolist()
        first, self._resumed = self.first, (-1, 0)
        return iter(order[first : self.used][self.rank :: self.ranks])

    @property
    def first(self) -> int:
        """Return how many rows of this epoch were taken before the run was interrupted."""
        epoch, rows = self._resumed
        return rows if epoch == self.epoch else 0

    def resume(self, epoch: int, rows: int) -> None:
        """Leave out the first rows of an epoch, which were taken already."""
        self._resumed = (epoch, rows)


class Batches(DataLoader[dict[str, Any]]):
    """A loader that can go on in the middle of an epoch: Lightning keeps its `state_dict` in the checkpoint."""

    _epoch = _rows = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        # A generator, so that loader processes start with the first batch: only then does the sampler know its epoch.
        turns = self.sampler
        if not isinstance(turns, Turns):  # Lightning's `overfit_batches` puts another one in place
            yield from super().__iter__()
            return
        self._epoch, self._rows = turns.epoch, turns.first
        for batch in super().__iter__():
            self._rows += len(batch["id"]) * turns.ranks
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, and how many of its rows all devices have taken."""
        return {"epoch": self._epoch, "rows": self._rows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the rows of `state`."""
        if isinstance(self.sampler, Turns):
            self.sampler.resume(**state)


def already_a_batch(batch: Any) -> Any:
    """Return a batch as it is: tables return whole batches."""
    return batch


def leave_signals_to_the_parent(_: int) -> None:
    """Let a loader process outlive a signal that reaches the whole group: the last step may still need its batch.

    It ends with the process that started it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
