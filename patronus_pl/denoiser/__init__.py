"""Networks that predict noise from a noisy input, a timestep and a condition vector."""

from patronus_pl.denoiser.unet import UNet

__all__ = ["UNet"]
