"""Inverted images: their activations, and the noise from which they are decoded again."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Activations, Image

PSNR_FLOOR = 25.0
"""PSNR in dB of an image that is decoded from its own inverted noise; below it the image is flagged, for its edits then
start from another picture than the original."""


class Inverted(NamedTuple):
    """n images with what `invert` computed of them. All tensors are on the CPU."""

    images: Image
    """The images themselves, shape (n, c, h, w), in [-1, 1]."""
    s: Activations
    """Their activations, shape (n, m)."""
    x_T: Image
    """The noise from which DDIM, given `s`, leads back to the images; shape (n, c, h, w). Its norm is bounded, see
    `no_louder_than_noise`."""

    def first(self, count: int) -> "Inverted":
        """Return the first images only, so that several tools share one inversion."""
        return Inverted(self.images[:count], self.s[:count], self.x_T[:count])

    def take(self, rows: Sequence[int]) -> "Inverted":
        """Return the images of the given rows, in their order."""
        return Inverted(self.images[rows], self.s[rows], self.x_T[rows])


@evaluating
def invert(model: PatronusModule, images: Image, sampling: Sampling) -> Inverted:
    """Compute the activations and the inverted noise of images, and keep all three together.

    Args:
        model: the model.
        images: (n, c, h, w) in [-1, 1].
        sampling: its `steps` and `batch_size` count; inversion is always that of DDIM and draws no random number.
    """
    s, x_T = [], []
    for x in torch.split(images, sampling.batch_size):
        x = x.to(model.device)
        s.append(model.encode(x))
        # One fixed-point iteration in each step costs no more than none, and the decoded image is far closer.
        x_T.append(no_louder_than_noise(model.invert(x, s[-1], sampling.steps, refine=1)).cpu())
    return Inverted(images.cpu(), torch.cat(s).cpu(), torch.cat(x_T))


def no_louder_than_noise(x_T: Image) -> Image:
    """Scale each row down to the norm √d of Gaussian noise of d values, if it is above: x_T · min(1, √d / ‖x_T‖).

    A denoiser that trusts s more than x_t leaves the small rest x - x̂_0 in the noise, and the inversion divides that
    rest by √(1-ᾱ) of its first step: x_T then has several times the norm of any noise the denoiser was trained on.
    From there edits fall short, and with few steps even the unedited image comes back worse.

    Args:
        x_T: inverted noise, shape (n, c, h, w).
    """
    flat = x_T.flatten(1)
    loudness = flat.norm(dim=1) / flat.shape[1] ** 0.5
    scaled: Tensor = x_T / loudness.clamp_min(1.0)[:, None, None, None]
    return scaled
