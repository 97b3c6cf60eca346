"""Training steps made by hand, of which every number is known."""

from typing import Any

import torch
from torch import Tensor

from patronus_pl.objective import Edit, TrainingStep
from patronus_pl.prototypes import PrototypeLayer, ReceptiveField

FIELD = ReceptiveField.of((3, 3), (2, 1), (1, 0))
"""Windows of 7 pixels, 2 apart: 6 × 6 of them in 16 × 16 pixels."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_step(activations: Tensor | None = None, **fields: Any) -> TrainingStep:
    """A step whose other fields say nothing, unless they are given."""
    s = normal(6, 3) if activations is None else activations
    defaults = {"number": 0, "attributes": None, "receptive_field": FIELD, "read": lambda x: x, "edit": None}
    return TrainingStep(activations=s, **{"prototypes": PrototypeLayer(s.shape[1], 4), **defaults, **fields})


def make_edit(**fields: Any) -> Edit:
    """One prototype of three taken back in each of four images of 2 × 16 × 16 pixels; the third is not valid."""
    prototype = torch.tensor([0, 2, 1, 2])
    defaults = {
        "prototype": prototype,
        "change": -torch.nn.functional.one_hot(prototype, 3).float(),
        "valid": torch.tensor([True, True, False, True]),
        "similarity": normal(4, 3, 6, 6, seed=1),
        "before": normal(4, 2, 16, 16, seed=2),
        "after": normal(4, 2, 16, 16, seed=3),
    }
    return Edit(**{**defaults, **fields})
