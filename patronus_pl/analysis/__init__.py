"""What a trained model shows of itself: census, what, where, when, edits and their faithfulness.

Every function takes a model and tensors and returns tensors in small dataclasses, on the CPU; a callback, a command, a
notebook and the report call the same.
"""

from patronus_pl.analysis.census import AttributeReading, Census, Consistency, best_attribute, census, consistency
from patronus_pl.analysis.edit import (
    Change,
    Edited,
    edit,
    encode,
    extrapolate,
    interpolate,
    set_activations,
)
from patronus_pl.analysis.faithfulness import (
    Faithfulness,
    Reconstruction,
    UseRatio,
    faithfulness,
    reconstruct,
    use_ratio,
)
from patronus_pl.analysis.patches import TopPatches, top_patches
from patronus_pl.analysis.prior import Gap, gap_meter
from patronus_pl.analysis.ranges import measure_ranges
from patronus_pl.analysis.survival import Commitment, Survival, commitment, survival
from patronus_pl.analysis.untrained import untrained
from patronus_pl.analysis.what import What, what
from patronus_pl.analysis.when import Emergence, Order, emergence, order
from patronus_pl.analysis.where import Location, locate, pixel_map, point_at_parts

__all__ = [
    "AttributeReading",
    "Census",
    "Change",
    "Commitment",
    "Consistency",
    "Edited",
    "Emergence",
    "Faithfulness",
    "Gap",
    "Location",
    "Order",
    "Reconstruction",
    "Survival",
    "TopPatches",
    "UseRatio",
    "What",
    "best_attribute",
    "census",
    "commitment",
    "consistency",
    "edit",
    "emergence",
    "encode",
    "extrapolate",
    "faithfulness",
    "gap_meter",
    "interpolate",
    "locate",
    "measure_ranges",
    "order",
    "pixel_map",
    "point_at_parts",
    "reconstruct",
    "set_activations",
    "survival",
    "top_patches",
    "untrained",
    "use_ratio",
    "what",
]
