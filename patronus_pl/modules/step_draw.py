"""`StepDraw`: the random numbers of one training step, the same on any number of devices."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.types import Timesteps


class StepDraw:
    """Random numbers of one step: a function of (seed, step), whatever was drawn before.

    Numbers are drawn for the batches of all ranks, and each rank takes its own rows. So a resumed run, or one on
    another number of devices, draws the same.

    Args:
        batch: the batch of this rank; only its number of rows and its device matter.
        seed: seed of the run.
        step: number of this draw among all draws of the run.
        ranks: number of devices that train.
        rank: index of this device among them.
        total: number of rows of all ranks; None if each has as many as this one.
    """

    def __init__(
        self, batch: Tensor, seed: int, step: int, ranks: int = 1, rank: int = 0, total: int | None = None
    ) -> None:
        self.ranks, self.rank = ranks, rank
        self.total, self.device = len(batch) * ranks if total is None else total, batch.device
        # Hashed into one number, since torch's CPU generator keeps only the lower 32 bits of a seed.
        (number,) = np.random.SeedSequence(seed, spawn_key=(step,)).generate_state(1).tolist()
        self.generator = torch.Generator(batch.device).manual_seed(number)

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "b ..."]:
        """Return standard normal numbers, of the given shape for every row."""
        drawn = torch.randn((self.total, *shape), generator=self.generator, device=self.device)
        return drawn[self.rows]

    @property
    def rows(self) -> slice:
        """Which of the rows of all ranks are those of this rank."""
        return slice(self.rank, None, self.ranks)

    def uniform(self, columns: int) -> Float[Tensor, "b columns"]:
        """Return uniform numbers in [0, 1)."""
        return torch.rand(self.total, columns, generator=self.generator, device=self.device)[self.rows]

    def timesteps(self, count: int, power: float = 1.0, descending: bool = False) -> Timesteps:
        """Return timesteps t = ⌊T u^(1/power)⌋.

        u is stratified, one number in each of `total` equal parts of [0, 1): every batch covers all noise levels,
        and the loss varies less.

        Args:
            count: T, the number of timesteps.
            power: above 1 favours noisy steps, below 1 clean ones.
            descending: give the noisiest step to the first row, for batches whose rows are in random order anyway.
        """
        strata = torch.randperm(self.total, generator=self.generator, device=self.device)
        if descending:
            strata = torch.arange(self.total - 1, -1, -1, device=self.device)
        u = (strata + torch.rand(self.total, generator=self.generator, device=self.device)) / self.total
        t = (u.pow(1 / power) * count).long().clamp_max(count - 1)
        return t[self.rows]
