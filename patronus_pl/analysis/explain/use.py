"""Whether the denoiser uses the activations at all."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.analysis.editing.decoding import encode
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion import NoiseSource
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import mse
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image

TIMES = (200, 400, 600)
"""Timesteps, of a schedule with 1000, at which the use of s is measured."""


@dataclass(frozen=True)
class UseRatio:
    """How much worse the denoiser does with the activations of another image, at k timesteps.

    Attributes:
        t: (k,) timesteps.
        own: (k,) mean squared error of the predicted noise given the image's own activations.
        other: (k,) the same given another image's.
    """

    t: Int[Tensor, " k"]
    own: Float[Tensor, " k"]
    other: Float[Tensor, " k"]

    @property
    def ratio(self) -> Float[Tensor, " k"]:
        """Return other / own, shape (k,): 1 means that the denoiser ignores s. It is the same for ε- and v-losses."""
        return self.other / self.own


@evaluating
def use_ratio(
    model: PatronusModule, images: Image, t: Sequence[int] = (200, 400, 600), seed: int = 0, batch_size: int = 64
) -> UseRatio:
    """Measure the denoising loss with each image's own activations and with those of the image before it.

    Args:
        model: the model.
        images: (n, c, h, w) in [-1, 1], n ≥ 2.
        t: timesteps.
        seed: seed of the noise that is added to the images.
        batch_size: images at a time.

    Raises:
        InvalidOptionError: fewer than two images.
    """
    if len(images) < 2:
        raise InvalidOptionError(
            f"with {len(images)} image there is no other to take activations from; give at least 2"
        )
    s = encode(model, images, batch_size).to(model.device)
    noise = NoiseSource(seed, range(len(images)))(images.shape)
    total = torch.zeros(2, len(t))
    for rows in torch.split(torch.arange(len(images)), batch_size):
        x, eps = images[rows].to(model.device), noise[rows].to(model.device)
        for i, denoise in enumerate((model.denoiser_for(s[rows]), model.denoiser_for(s[rows - 1]))):
            for k, step in enumerate(t):
                steps = torch.full((len(x),), step, device=model.device)
                x_t = model.schedule.add_noise(x, eps, steps)
                found = model.schedule.noise_from_x_0(x_t, denoise(x_t, steps), steps)
                total[i, k] += mse(found, eps).sum().cpu()
    return UseRatio(torch.tensor(t), *(total / len(images)).unbind())
