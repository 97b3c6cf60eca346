"""The Lightning modules: the model of images, and the prior over its activations."""

from patronus_pl.modules.latent_prior import LatentPrior
from patronus_pl.modules.patronus import PatronusModule

__all__ = ["LatentPrior", "PatronusModule"]
