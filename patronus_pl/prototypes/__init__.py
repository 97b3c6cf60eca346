"""Image patches → prototypes → activations."""

from patronus_pl.prototypes.encoder import PatchEncoder
from patronus_pl.prototypes.layer import PrototypeLayer
from patronus_pl.prototypes.losses import correlation, decorrelation_loss, distinctness_loss, kurtosis_loss
from patronus_pl.prototypes.receptive_field import ReceptiveField

__all__ = [
    "PatchEncoder",
    "PrototypeLayer",
    "ReceptiveField",
    "correlation",
    "decorrelation_loss",
    "distinctness_loss",
    "kurtosis_loss",
]
