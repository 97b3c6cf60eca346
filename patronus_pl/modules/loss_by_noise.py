"""`LossByNoise`: the training loss of four ranges of noise levels, over an epoch."""

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.types import Timesteps

QUARTILES = 4


class LossByNoise:
    """Add up losses by quarter of the timesteps, without waiting for the device as a torchmetrics mean would.

    Args:
        timesteps: T of the noise schedule.

    Attributes:
        sums: (2, 4) sum of the losses, and number of images, of each quarter; the least noisy first.
    """

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps
        self.sums = torch.zeros(2, QUARTILES)

    def add(self, losses: Float[Tensor, " b"], t: Timesteps) -> None:
        """Add the losses of a batch at its timesteps."""
        new = torch.stack([losses, torch.ones_like(losses)]).float()
        self.sums = self.sums.to(losses.device).index_add(1, t * QUARTILES // self.timesteps, new)

    def restart(self, sums: Float[Tensor, "2 quartiles"]) -> Float[Tensor, " quartiles"]:
        """Return the mean of each quarter, given the sums of all ranks, and begin anew."""
        self.sums = torch.zeros_like(self.sums)
        return sums[0] / sums[1]
