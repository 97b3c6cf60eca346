"""`Compile`: `torch.compile` for the denoiser, where it pays."""

from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from patronus_pl.errors import InvalidOptionError


class Compile(pl.Callback):
    """Compile the denoiser, and it alone, for GPUs; on a CPU, where it makes training slower, do nothing.

    The denoiser is nearly all of the work and has one shape a step; the encoder and the losses, which talk to other
    devices, stay as they are. Checkpoints are those of a run without it: no name of a weight changes.

    Args:
        mode: of `torch.compile`. `max-autotune` searches for minutes and needs batches of one shape.
    """

    def __init__(
        self,
        mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default",
    ) -> None:
        self.mode = mode

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Before the weights are shared out: DDP then wraps what is compiled.

        Raises:
            InvalidOptionError: the model has no denoiser.
        """
        denoiser: Any = getattr(pl_module, "denoiser", None)
        if not isinstance(denoiser, nn.Module):
            raise InvalidOptionError(
                f"Compile compiles a denoiser, and {type(pl_module).__name__} has none; leave it out"
            )
        if trainer.strategy.root_device.type == "cpu":
            rank_zero_info("Compile: this is a CPU, the denoiser stays as it is")
        else:
            denoiser.compile(mode=self.mode)
