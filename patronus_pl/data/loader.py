"""`Batches`: loaders that several devices share, each image once, and that go on where they were interrupted."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from patronus_pl.errors import InvalidOptionError


class Turns(DistributedSampler[int]):
    """Which rows of a table one of several devices takes: of one order, rows rank, rank + ranks, rank + 2 ranks, ...

    In the order of the table, exactly one device takes each row. Shuffled, the order is a function of seed and epoch
    alone, and all devices take equally many rows in batches that are whole: together they hold the rows that a single
    device would take in one larger batch. A resumed run, on any number of devices, sees the images it would have seen.
    (torch's own sampler, which Lightning would put in place, repeats rows until every device has equally many.)

    Args:
        count: how many rows there are.
        batch_size: of one device.
        ranks: how many devices there are.
        rank: which of them this is.
        shuffle_seed: of the order; None keeps that of the table.

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
        """Rows of this epoch that were taken before the run was interrupted."""
        epoch, rows = self._resumed
        return rows if epoch == self.epoch else 0

    def resume(self, epoch: int, rows: int) -> None:
        """Leave out the rows of an epoch that were taken already."""
        self._resumed = (epoch, rows)


class Batches(DataLoader[dict[str, Any]]):
    """A loader that goes on in the middle of an epoch: Lightning keeps its `state_dict` in the checkpoint."""

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
        """How far all devices are."""
        return {"epoch": self._epoch, "rows": self._rows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        if isinstance(self.sampler, Turns):
            self.sampler.resume(**state)


def already_a_batch(batch: Any) -> Any:
    """Tables make whole batches: nothing is left to collate."""
    return batch
