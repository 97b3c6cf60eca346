"""Image patches → prototypes → activations."""

from patronus_pl.prototypes.balancing import (
    Balance,
    cells,
    check_names,
    columns_of,
    independent_frequencies,
    joint_frequencies,
)
from patronus_pl.prototypes.encoder import PatchEncoder
from patronus_pl.prototypes.layer import PrototypeLayer
from patronus_pl.prototypes.losses import (
    correlation,
    decorrelation_loss,
    distinctness_loss,
    faithfulness_loss,
    kurtosis_loss,
    looking_loss,
    sparsity_loss,
)
from patronus_pl.prototypes.receptive_field import ReceptiveField, middle_means, patch_means

__all__ = [
    "Balance",
    "PatchEncoder",
    "PrototypeLayer",
    "ReceptiveField",
    "cells",
    "check_names",
    "columns_of",
    "correlation",
    "decorrelation_loss",
    "distinctness_loss",
    "faithfulness_loss",
    "independent_frequencies",
    "joint_frequencies",
    "kurtosis_loss",
    "looking_loss",
    "middle_means",
    "patch_means",
    "sparsity_loss",
]
