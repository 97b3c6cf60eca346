"""Reconstruction: how much of an image its activations hold, with and without its own noise."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.editing.decoding import decode
from patronus_pl.analysis.editing.inverting import Inverted
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion import NoiseSource
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.metrics import mse, psnr
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image


@dataclass(frozen=True)
class Reconstruction:
    """n images decoded from their own activations, once from their inverted noise and r times from random noise.

    Attributes:
        inverted: (n, c, h, w) decoded from the inverted noise, in [-1, 1].
        random: (r, n, c, h, w) decoded from random noise: what s alone holds of the image.
        mse_inverted: (n,) mean squared error of the former; the images are in [-1, 1].
        psnr_inverted: (n,) the same in dB.
        mse_random: (r, n) mean squared error of the latter.
        psnr_random: (r, n) the same in dB.
    """

    inverted: Image
    random: Float[Tensor, "r n c h w"]
    mse_inverted: Float[Tensor, " n"]
    psnr_inverted: Float[Tensor, " n"]
    mse_random: Float[Tensor, "r n"]
    psnr_random: Float[Tensor, "r n"]

    def summary(self) -> dict[str, int | float]:
        """Return means over the images as plain numbers."""
        return {
            "mse_inverted": float(self.mse_inverted.mean()),
            "psnr_inverted": float(self.psnr_inverted.mean()),
            "mse_random": float(self.mse_random.mean()),
            "psnr_random": float(self.psnr_random.mean()),
        }


@evaluating
def reconstruct(
    model: PatronusModule, inverted: Inverted, unedited: Image, sampling: Sampling, n_random: int = 3
) -> Reconstruction:
    """Compare images decoded from their own activations with the originals: from inverted and from random noise.

    Costs n · n_random images of `sampling.steps` steps each.

    Args:
        model: the model.
        inverted: n images.
        unedited: (n, c, h, w) the same images decoded from their inverted noise, as `decode` returns them.
        sampling: how images are decoded from random noise; its seed is that of the noise.
        n_random: r, how often each image is decoded from random noise.
    """
    n = len(unedited)
    noise = NoiseSource(sampling.seed, range(n))
    x_T = torch.cat([noise(unedited.shape) for _ in range(n_random)])
    made = decode(model, x_T, inverted.s.repeat(n_random, 1), sampling)
    pictures = torch.cat([unedited, made])
    originals = inverted.images.repeat(1 + n_random, 1, 1, 1)
    squared, decibels = (measure(pictures, originals).reshape(-1, n) for measure in (mse, psnr))
    random = made.reshape(n_random, *unedited.shape)
    return Reconstruction(unedited, random, squared[0], decibels[0], squared[1:], decibels[1:])
