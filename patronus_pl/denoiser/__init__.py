"""Networks whose output, given noisy data and a timestep, names the clean data (see `diffusion.prediction`)."""

from patronus_pl.denoiser.unet import UNet
from patronus_pl.denoiser.vector_net import VectorNet

__all__ = ["UNet", "VectorNet"]
