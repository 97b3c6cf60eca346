"""Images decoded from their own activations."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.editing.decoding import decode
from patronus_pl.analysis.editing.inverting import invert
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion import NoiseSource
from patronus_pl.diffusion.sampling import Sampler, Sampling
from patronus_pl.metrics import mse, psnr
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image


@dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct` made of n images, once from their inverted noise and r times from random noise.

    Attributes:
        inverted: (n, c, h, w) same s, inverted x_T.
        random: (r, n, c, h, w) same s, random x_T: what s alone holds of the image.
        mse_inverted: (n,) in units of [-1, 1].
        psnr_inverted: (n,) dB.
        mse_random: (r, n).
        psnr_random: (r, n) dB.
    """

    inverted: Image
    random: Float[Tensor, "r n c h w"]
    mse_inverted: Float[Tensor, " n"]
    psnr_inverted: Float[Tensor, " n"]
    mse_random: Float[Tensor, "r n"]
    psnr_random: Float[Tensor, "r n"]

    def summary(self) -> dict[str, int | float]:
        """Plain numbers: means over the images."""
        return {
            "mse_inverted": float(self.mse_inverted.mean()),
            "psnr_inverted": float(self.psnr_inverted.mean()),
            "mse_random": float(self.mse_random.mean()),
            "psnr_random": float(self.psnr_random.mean()),
        }


@evaluating
def reconstruct(
    model: PatronusModule,
    images: Image,
    steps: int = 20,
    n_random: int = 3,
    sampler: Sampler = "dpm++",
    seed: int = 0,
    batch_size: int = 64,
) -> Reconstruction:
    """Decode images from their own activations: with the noise of their inversion, and with random noise."""
    parts = invert(model, images, Sampling(steps, batch_size=batch_size))
    noise = NoiseSource(seed, range(len(images)))
    x_T = torch.stack([parts.x_T, *(noise(images.shape) for _ in range(n_random))])
    s = parts.s.repeat(1 + n_random, 1)
    pictures = decode(model, x_T.flatten(0, 1), s, Sampling(steps, sampler, batch_size=batch_size))
    originals = parts.images.repeat(1 + n_random, 1, 1, 1)
    squared, decibels = (measure(pictures, originals).reshape(-1, len(images)) for measure in (mse, psnr))
    pictures = pictures.reshape(-1, *images.shape)
    return Reconstruction(pictures[0], pictures[1:], squared[0], decibels[0], squared[1:], decibels[1:])
