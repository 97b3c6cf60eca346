"""The distinctness penalty in closed form."""

import math

import pytest
import torch

from patronus_pl.objective import Distinctness
from patronus_pl.objective.distinctness import distinctness_loss
from patronus_pl.prototypes import PrototypeLayer
from tests.objective.steps import make_step


def directions(*degrees: float) -> torch.Tensor:
    """Vectors in the plane, of different lengths."""
    radians = [math.radians(angle) for angle in degrees]
    return torch.tensor([[length * math.cos(a), length * math.sin(a)] for length, a in enumerate(radians, start=1)])


@pytest.mark.parametrize("margin", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("angle", [0.0, 10.0, 40.0, 90.0, 150.0, 180.0])
def test_distinctness_of_two(angle: float, margin: float) -> None:
    expected = max(0.0, margin - (1 - abs(math.cos(math.radians(angle)))))
    assert distinctness_loss(directions(0, angle), margin).item() == pytest.approx(expected, abs=1e-6)


def test_distinctness_takes_the_nearest_of_each() -> None:
    """At 0°, 20° and 80° the nearest are 20°, 0° and 20°, at 20°, 20° and 60°."""
    nearest = [math.cos(math.radians(angle)) for angle in (20, 20, 60)]
    expected = sum(max(0.0, 0.7 - (1 - cosine)) for cosine in nearest) / 3
    assert distinctness_loss(directions(0, 20, 80), 0.7).item() == pytest.approx(expected, abs=1e-6)


def test_distinctness_pushes_near_duplicates_apart() -> None:
    vectors = directions(0, 5).requires_grad_()
    before = distinctness_loss(vectors, 0.5)
    before.backward()
    assert vectors.grad is not None
    assert distinctness_loss(vectors.detach() - 0.1 * vectors.grad, 0.5) < before


def test_a_single_prototype_is_distinct() -> None:
    vectors = torch.rand(1, 4, requires_grad=True)
    loss = distinctness_loss(vectors, 1.0)
    loss.backward()
    assert loss.item() == 0


def test_value_is_that_of_the_vectors_of_the_layer() -> None:
    layer = PrototypeLayer(2, 2)
    layer.vectors.data = directions(0, 40)
    expected = 0.7 - (1 - math.cos(math.radians(40)))
    assert Distinctness(margin=0.7).value(make_step(prototypes=layer)).item() == pytest.approx(expected, abs=1e-6)
