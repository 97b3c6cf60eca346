"""When to run and what to log; nothing else."""

from patronus_pl.callbacks.checkpoint import Checkpoint
from patronus_pl.callbacks.compile import Compile
from patronus_pl.callbacks.edits import Edit, Edits, Interpolation
from patronus_pl.callbacks.ema import EMA
from patronus_pl.callbacks.evaluation import Evaluation
from patronus_pl.callbacks.frechet import SampleDistance
from patronus_pl.callbacks.pictures import Pictures
from patronus_pl.callbacks.prototypes import PrototypeStatistics
from patronus_pl.callbacks.resume import Resume
from patronus_pl.callbacks.revival import Revival

__all__ = [
    "EMA",
    "Checkpoint",
    "Compile",
    "Edit",
    "Edits",
    "Evaluation",
    "Interpolation",
    "Pictures",
    "PrototypeStatistics",
    "Resume",
    "Revival",
    "SampleDistance",
]
