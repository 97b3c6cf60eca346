"""Networks that predict noise from a noisy input, a timestep and a condition vector."""

from patronus_pl.denoiser.unet import UNet
from patronus_pl.denoiser.vector_net import VectorNet

__all__ = ["UNet", "VectorNet"]
