"""Take images apart into their activations and the noise that leads back to them."""

from typing import NamedTuple

import torch
from torch import Tensor

from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Activations, Image


class Parts(NamedTuple):
    """What images are made of."""

    images: Image
    """(n, c, h, w)"""
    s: Activations
    """(n, m)"""
    x_T: Image
    """The noise from which DDIM under s leads back to the images, see `no_louder_than_noise`."""


@evaluating
def take_apart(model: PatronusModule, images: Image, steps: int = 20, batch_size: int = 64) -> Parts:
    """Activations and inverted noise of images, which is no louder than noise is."""
    s, x_T = [], []
    for x in torch.split(images, batch_size):
        x = x.to(model.device)
        s.append(model.encode(x))
        # One fixed-point iteration a step costs no more than none, and comes back far closer.
        x_T.append(no_louder_than_noise(model.invert(x, s[-1], steps, refine=1)).cpu())
    return Parts(images.cpu(), torch.cat(s).cpu(), torch.cat(x_T))


def no_louder_than_noise(x_T: Image) -> Image:
    """Each row scaled down to the norm √d of Gaussian noise of d values, if it is above: x_T · min(1, √d / ‖x_T‖).

    A denoiser that trusts s more than x_t leaves the small rest x - x̂_0 in the noise, and √(1-ᾱ) of the first step
    divides it: x_T comes out several times as loud as any noise the denoiser was trained on. From there edits fall
    short, and in few steps even the way back is worse.
    """
    flat = x_T.flatten(1)
    loudness = flat.norm(dim=1) / flat.shape[1] ** 0.5
    scaled: Tensor = x_T / loudness.clamp_min(1.0)[:, None, None, None]
    return scaled
