"""`Revival`: a prototype that changes nothing starts again where the picture is worst."""

from collections.abc import Callable
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.prototypes import PrototypeLayer, ReceptiveField, patch_means
from patronus_pl.types import Activations, Features, Image

IDLE = 0.3
"""Share of the median effect below which a prototype is idle."""
FIRST_DRAW = 1 << 30
"""Draws of revivals lie between those of training and of validation."""
LOOKED_AT = 32
"""Images on which idle prototypes are looked for."""

Painter = Callable[[Activations], Image]
"""Standardised activations → x̂_0 of the images they belong to."""


class Revival(pl.Callback):
    """In the first half of a training, let an idle prototype start again from a patch that is painted badly.

    Images are painted from pure noise, so that only the activations can tell what to paint. Logs `train/revived`, the
    index of the prototype.

    Args:
        every: optimiser steps between two looks; one prototype starts again at most each time.

    Raises, when training starts:
        InvalidOptionError: `every` is below 1.
    """

    def __init__(self, every: int = 200) -> None:
        self.every = every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse an impossible interval; in the constructor, jsonargparse would bury the message under its own."""
        if self.every < 1:
            raise InvalidOptionError(f"Revival.every is {self.every}; it must be at least 1")

    @torch.no_grad()
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Look for an idle prototype, but not in the middle of an accumulated step, nor in the second half."""
        step = trainer.global_step
        late = step >= trainer.estimated_stepping_batches / 2
        if step == 0 or step % self.every or late or batch_idx % trainer.accumulate_grad_batches:
            return
        if not isinstance(pl_module, PatronusModule):
            return
        x_0 = batch["image"]
        noise = pl_module.draw(x_0, FIRST_DRAW + step).normal(x_0.shape[1:])
        x_0, noise = pl_module.all_ranks(x_0)[:LOOKED_AT], pl_module.all_ranks(noise)[:LOOKED_AT]
        t = torch.full((len(x_0),), pl_module.schedule.timesteps - 1, device=x_0.device)
        features = pl_module.features(x_0)
        condition = pl_module.prototypes.standardised(pl_module.prototypes(features))
        found = find_idle(
            lambda c: pl_module.denoiser_under(c)(noise, t),
            x_0,
            condition,
            features,
            pl_module.encoder.receptive_field,
            step,
        )
        found = trainer.strategy.broadcast(found)  # devices may round differently: all take what rank 0 found
        if found is not None:
            start_again(pl_module.prototypes, pl_module.denoiser.condition_input, found, trainer.optimizers[0])
            pl_module.log("train/revived", float(found.prototype))


class Idle(NamedTuple):
    """An idle prototype, and the vector with which it starts again."""

    prototype: int
    vector: Float[Tensor, " d"]


@torch.no_grad()
def find_idle(
    paint: Painter, x_0: Image, condition: Activations, features: Features, field: ReceptiveField, seed: int
) -> Idle | None:
    """Return the prototype of least effect, if that is next to nothing, and a patch that is painted badly.

    The effect of a prototype is the change of the pixel that changes most when the prototype takes its values in other
    images: moving a mouth changes few pixels, but those a lot. A patch is drawn with a probability proportional to the
    square of its squared error.

    Args:
        paint: paints the images under given activations.
        x_0: the real images, (b, c, h, w).
        condition: their standardised activations, (b, m).
        features: features of all their patches.
        field: where the patches lie.
        seed: seed of the draw of the patch.

    Returns:
        None if no prototype is idle, or no patch that it could start from is painted badly.
    """
    painted = paint(condition)
    effects = []
    for j in range(condition.shape[1]):
        others = condition.clone()
        others[:, j] = condition[:, j].roll(1, 0)
        effects.append((paint(others) - painted).norm(dim=1).amax((1, 2)).mean())
    effect = torch.stack(effects)
    idlest = int(effect.argmin())
    if effect[idlest] >= IDLE * effect.median():
        return None
    error = patch_means((painted - x_0).square().sum(1), field, (features.shape[-2], features.shape[-1]))
    error = error * (features.square().sum(1) > 0)  # as at the start: a vector of length 0 has no direction to compare
    if not error.any():
        return None
    generator = torch.Generator().manual_seed(seed)
    worst = int(torch.multinomial(error.flatten().square().cpu(), 1, generator=generator))
    return Idle(idlest, features.movedim(1, -1).reshape(-1, features.shape[1])[worst])


@torch.no_grad()
def start_again(layer: PrototypeLayer, first: torch.nn.Linear, idle: Idle, optimizer: torch.optim.Optimizer) -> None:
    """Give the prototype its vector, and reset what the denoiser and the optimiser know of it to 0.

    Args:
        layer: the prototype layer.
        first: the layer of the denoiser that reads the activations.
        idle: which prototype, and the vector it starts with.
        optimizer: AdamW, whose running moments of these weights are set to 0.
    """
    j = idle.prototype
    vector = idle.vector.to(layer.vectors)
    if layer.similarity == "unit":  # only its direction counts; its length sets how fast it turns
        vector = F.normalize(vector, dim=0) * layer.vectors.norm(dim=1).mean()
    layer.vectors[j] = vector
    # At 0 the picture stays as it is, and the gradient says how the new activation helps.
    m = len(layer.vectors)
    columns = list(range(j, first.in_features, m))  # its value and, if it can be masked, its "not told"
    first.weight[:, columns] = 0.0
    for parameter, of in ((layer.vectors, j), (first.weight, (slice(None), columns))):
        for name in ("exp_avg", "exp_avg_sq"):
            if name in optimizer.state[parameter]:
                optimizer.state[parameter][name][of] = 0.0
