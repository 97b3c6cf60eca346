"""Encoder of image patches, and prototypes whose activations say how strongly each pattern is present."""

from patronus_pl.prototypes.encoder import PatchEncoder
from patronus_pl.prototypes.layer import PrototypeLayer
from patronus_pl.prototypes.receptive_field import ReceptiveField, middle_means, patch_means

__all__ = ["PatchEncoder", "PrototypeLayer", "ReceptiveField", "middle_means", "patch_means"]
