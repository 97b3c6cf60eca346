"""What bfloat16 may change, and what it must not."""

import pytest
import torch
from torch import Tensor

from patronus_pl.data import PlantedFaces
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from tests.conftest import ModelFactory


@pytest.fixture(params=[("unit", 10.0), ("unit", None), ("euclidean", None)], ids=str)
def model(request: pytest.FixtureRequest, make_model: ModelFactory, faces: Tensor) -> PatronusModule:
    """Prototypes that lie on real patches, where the similarity is steepest."""
    similarity, temperature = request.param
    made = make_model(channels=3, size=32, count=8, prototypes={"similarity": similarity, "temperature": temperature})
    with torch.no_grad():
        made.prototypes.initialise_from(made.encoder(faces), torch.Generator().manual_seed(0))
    return made


@pytest.fixture(scope="module")
def faces() -> Tensor:
    return as_floats(PlantedFaces(image_size=32, test_size=32).table("test").__getitems__(range(32))["image"])


@torch.no_grad()
def test_activations_and_where_they_come_from_are_those_of_float32(model: PatronusModule, faces: Tensor) -> None:
    s, where = model.encode(faces), model.similarity_map(faces).flatten(2).argmax(-1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, there = model.encode(faces), model.similarity_map(faces).flatten(2).argmax(-1)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, s, rtol=1e-2, atol=0)
    assert (where == there).float().mean() >= 0.99


@torch.no_grad()
def test_training_sees_nearly_the_same_activations(model: PatronusModule, faces: Tensor) -> None:
    """There the encoder is in bfloat16 too, and distances are not."""
    features = model.encoder(faces)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.encoder(faces)
        s = model.prototypes(rounded)
    assert rounded.dtype == torch.bfloat16
    assert s.dtype == torch.float32
    expected = model.prototypes(features)
    assert ((s - expected).abs() / expected).mean() < 1e-2


@torch.no_grad()
def test_predicted_noise_is_nearly_the_same(model: PatronusModule, faces: Tensor) -> None:
    t, s = torch.arange(32) * 31, model.encode(faces)
    expected = model.denoise(faces, t, s)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.denoise(faces, t, s)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 2e-2 * expected.norm()
