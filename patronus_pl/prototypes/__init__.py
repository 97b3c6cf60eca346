"""Image patches → prototypes → activations."""

from patronus_pl.prototypes.encoder import PatchEncoder
from patronus_pl.prototypes.layer import PrototypeLayer
from patronus_pl.prototypes.receptive_field import ReceptiveField, middle_means, patch_means

__all__ = ["PatchEncoder", "PrototypeLayer", "ReceptiveField", "middle_means", "patch_means"]
