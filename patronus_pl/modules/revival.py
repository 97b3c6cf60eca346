"""Reviving prototypes: one that changes nothing starts again where the picture is worst."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

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


@torch.no_grad()
def revive(model: Any, x_0: Image, batch_idx: int) -> int | None:
    """Let an idle prototype start again, if there is one and half of the training is still to come.

    Images are painted from pure noise, so that only s can tell what to paint.

    Args:
        model: a `PatronusModule` in training, which imports this.
        x_0: this rank's batch.
        batch_idx: its number; nothing happens in the middle of an accumulated step.

    Returns:
        Which prototype it was, or None.
    """
    trainer = model.trainer
    late = trainer.global_step >= trainer.estimated_stepping_batches / 2
    if late or batch_idx % trainer.accumulate_grad_batches:
        return None
    noise = model.draw(x_0, FIRST_DRAW + trainer.global_step).normal(x_0.shape[1:])
    x_0, noise = model.all_ranks(x_0)[:LOOKED_AT], model.all_ranks(noise)[:LOOKED_AT]
    t = torch.full((len(x_0),), model.schedule.timesteps - 1, device=x_0.device)
    features = model.features(x_0)
    condition = model.standardised(model.prototypes(features))
    found = find_revival(
        lambda s: model.clean(model.network(s)(noise, t), noise, t),
        x_0,
        condition,
        features,
        model.encoder.receptive_field,
        trainer.global_step,
    )
    found = trainer.strategy.broadcast(found)  # devices may round differently: all take what rank 0 found
    if found is None:
        return None
    start_again(model.prototypes, model.denoiser.condition_input, found, trainer.optimizers[0])
    return int(found.prototype)


class Revival(NamedTuple):
    """An idle prototype, and the vector with which it starts again."""

    prototype: int
    vector: Float[Tensor, " d"]


@torch.no_grad()
def find_revival(
    paint: Painter, x_0: Image, condition: Activations, features: Features, field: ReceptiveField, seed: int
) -> Revival | None:
    """The prototype of least effect, if that is next to nothing, and a patch that is painted badly.

    The effect of a prototype is by how much the pixel that changes most does when it takes the values of other images:
    who moves a mouth changes few pixels, but those a lot. Patches are drawn as likely as their squared error is large,
    squared again.

    Args:
        paint: draws the images.
        x_0: what they should be.
        condition: their standardised activations.
        features: of all their patches.
        field: where the patches lie.
        seed: of the draw.

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
    return Revival(idlest, features.movedim(1, -1).reshape(-1, features.shape[1])[worst])


@torch.no_grad()
def start_again(
    layer: PrototypeLayer, first: torch.nn.Linear, revival: Revival, optimizer: torch.optim.Optimizer
) -> None:
    """Give the prototype its vector, and let the denoiser and the optimiser forget what they knew of it.

    Args:
        layer: the prototypes.
        first: the denoiser's layer that reads the activations.
        revival: which, and with what vector.
        optimizer: whose running moments of it are set to 0.
    """
    j = revival.prototype
    vector = revival.vector.to(layer.vectors)
    if layer.similarity == "unit":  # only its direction counts; its length sets how fast it turns
        vector = F.normalize(vector, dim=0) * layer.vectors.norm(dim=1).mean()
    layer.vectors[j] = vector
    # At 0 the picture stays as it is, and the gradient says how the new activation helps.
    first.weight[:, j] = 0.0
    for parameter, of in ((layer.vectors, j), (first.weight, (slice(None), j))):
        for name in ("exp_avg", "exp_avg_sq"):
            if name in optimizer.state[parameter]:
                optimizer.state[parameter][name][of] = 0.0
