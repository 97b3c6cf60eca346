"""What `PatronusModule` minimises beside the denoising loss: one file a penalty."""

from patronus_pl.objective.decorrelation import Decorrelation
from patronus_pl.objective.distinctness import Distinctness
from patronus_pl.objective.faithfulness import Faithfulness
from patronus_pl.objective.kurtosis import Kurtosis
from patronus_pl.objective.looking import Looking
from patronus_pl.objective.masks import Masks
from patronus_pl.objective.objective import Objective, Term
from patronus_pl.objective.penalty import Penalty
from patronus_pl.objective.sparsity import Sparsity
from patronus_pl.objective.step import Edit, Painted, TrainingStep, paint, take_back

__all__ = [
    "Decorrelation",
    "Distinctness",
    "Edit",
    "Faithfulness",
    "Kurtosis",
    "Looking",
    "Masks",
    "Objective",
    "Painted",
    "Penalty",
    "Sparsity",
    "Term",
    "TrainingStep",
    "paint",
    "take_back",
]
