import math

import numpy as np
import pytest
import torch

from patronus_pl.errors import InvalidOptionError
from patronus_pl.prototypes import PrototypeLayer


def features(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("similarity", ["unit", "euclidean"])
def test_distances_by_brute_force(similarity: str) -> None:
    layer = PrototypeLayer(4, 6, similarity=similarity)
    z = features(2, 6, 3, 5)
    patches, prototypes = z.double().permute(0, 2, 3, 1).numpy(), layer.vectors.detach().double().numpy()
    if similarity == "unit":
        patches, prototypes = unit(patches), unit(prototypes)
    expected = [[((patches[i] - p) ** 2).sum(-1) for p in prototypes] for i in range(2)]
    np.testing.assert_allclose(layer.distances(z).detach(), expected, atol=1e-5)


def test_unit_distances_know_no_lengths() -> None:
    layer, z = PrototypeLayer(4, 6), features(2, 6, 3, 5)
    before = layer.distances(z).detach()
    assert before.max() <= 4
    layer.vectors.data *= 100
    torch.testing.assert_close(layer.distances(0.01 * z).detach(), before)


def test_distances_keep_their_precision_under_autocast() -> None:
    layer, z = PrototypeLayer(4, 6), features(2, 6, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.distances(z), layer.distances(z.clone()))
        inside = layer.distances(z)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, layer.distances(z))


def test_hard_pooling_is_the_papers_formula() -> None:
    layer, z = PrototypeLayer(4, 6, similarity="euclidean", temperature=None, epsilon=1e-3), features(2, 6, 3, 5)
    nearest = layer.distances(z).detach().double().flatten(2).min(-1).values.numpy()
    np.testing.assert_allclose(layer(z).detach(), np.log((nearest + 1) / (nearest + 1e-3)), rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 10.0])
def test_soft_pooling_is_the_mean_under_a_softmax(temperature: float) -> None:
    layer, z = PrototypeLayer(4, 6, temperature=temperature), features(2, 6, 3, 5)
    similarity = layer.similarity_map(z).detach().double().flatten(2).numpy()
    weights = np.exp(temperature * similarity)
    expected = (weights * similarity).sum(-1) / weights.sum(-1)
    np.testing.assert_allclose(layer(z).detach(), expected, rtol=1e-5)


def test_soft_pooling_tends_to_the_hard_one() -> None:
    soft, hard, z = PrototypeLayer(4, 6, temperature=1e4), PrototypeLayer(4, 6, temperature=None), features(2, 6, 3, 5)
    hard.load_state_dict(soft.state_dict())
    torch.testing.assert_close(soft(z), hard(z))
    mean = PrototypeLayer(4, 6, temperature=1e-6)
    mean.load_state_dict(soft.state_dict())
    torch.testing.assert_close(mean(z), mean.similarity_map(z).mean((-2, -1)))


@pytest.mark.parametrize(("temperature", "patches"), [(None, 1), (1.0, 15)])
def test_patches_that_a_prototype_learns_from(temperature: float | None, patches: int) -> None:
    layer, z = PrototypeLayer(1, 6, temperature=temperature), features(1, 6, 3, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(z).sum(), z)
    assert (gradient.abs().sum(1) > 0).sum() == patches


@pytest.mark.parametrize("similarity", ["unit", "euclidean"])
def test_the_prototype_itself_has_the_largest_similarity(similarity: str) -> None:
    layer = PrototypeLayer(3, 4, similarity=similarity, temperature=None)
    layer.vectors.data = torch.eye(3, 4)  # exact in float32, so that d² is exactly 0
    s = layer(torch.eye(3, 4)[:, :, None, None]).detach()
    np.testing.assert_allclose(s.diagonal(), math.log(1 / 1e-4), rtol=1e-6)
    np.testing.assert_allclose(s[0, 1], math.log(3 / (2 + 1e-4)), rtol=1e-5)


@pytest.mark.parametrize("similarity", ["unit", "euclidean"])
def test_start_from_patches(similarity: str) -> None:
    layer, z = PrototypeLayer(7, 6, similarity=similarity), features(4, 6, 3, 5)
    layer.initialise_from(z, torch.Generator().manual_seed(3))
    patches = z.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    if similarity == "unit":
        patches = unit(patches)
    chosen = np.abs(layer.vectors.detach().numpy()[:, None] - patches).max(-1).argmin(1)
    np.testing.assert_allclose(layer.vectors.detach(), patches[chosen], atol=1e-6)
    assert len(set(chosen)) == 7
    first = layer.vectors.detach().clone()
    layer.initialise_from(z, torch.Generator().manual_seed(3))
    assert torch.equal(layer.vectors, first)


def test_start_prefers_patches_far_apart() -> None:
    """k-means++: from points 0, 1 and 3 on a line, the second is drawn with odds of its squared distance."""
    points = torch.tensor([0.0, 1.0, 3.0]).reshape(1, 1, 1, 3)
    layer, generator, draws = PrototypeLayer(2, 1, similarity="euclidean"), torch.Generator().manual_seed(0), 800
    counts = np.zeros((4, 4))
    for _ in range(draws):
        layer.initialise_from(points, generator)
        first, second = layer.vectors.detach().flatten().int().tolist()
        counts[first, second] += 1 / draws
    expected = np.zeros((4, 4))
    expected[0, 1], expected[0, 3] = 1 / 30, 9 / 30
    expected[1, 0], expected[1, 3] = 1 / 15, 4 / 15
    expected[3, 0], expected[3, 1] = 9 / 39, 4 / 39
    np.testing.assert_allclose(counts, expected, atol=0.05)  # three standard errors


def test_start_with_fewer_patches_than_prototypes() -> None:
    layer = PrototypeLayer(5, 3)
    layer.initialise_from(torch.ones(2, 3, 1, 1))
    np.testing.assert_allclose(layer.vectors.detach(), np.full((5, 3), 3**-0.5), rtol=1e-6)


def test_start_skips_patches_without_a_direction() -> None:
    """A patch at which every ReLU is off would make a prototype of length 0."""
    z = torch.zeros(1, 3, 4, 4)
    z[..., 0, :2] = torch.eye(3)[:, :2]
    layer = PrototypeLayer(6, 3)
    layer.initialise_from(z, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(layer.vectors.detach().norm(dim=1), 1, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------- statistics


def test_the_denoiser_is_given_standardised_activations() -> None:
    layer = PrototypeLayer(3, 4)
    layer.mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    layer.std.copy_(torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(layer.standardised(torch.tensor([[1.5, 2.0, 1.0]])), torch.tensor([[1.0, 0.0, -1.0]]))


def test_training_standardises_by_the_batch_and_remembers() -> None:
    layer, s = PrototypeLayer(3, 4), features(50, 3) * torch.tensor([0.1, 1, 5]) + 4
    layer.follow(s)
    np.testing.assert_allclose(layer.mean, s.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.std, s.numpy().std(0), rtol=1e-5)
    condition = layer.standardised_by_batch(s)
    torch.testing.assert_close(condition, layer.standardised(s), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.standardised_by_batch(3 * s - 7), condition, atol=1e-4, rtol=1e-4)


def test_stored_statistics_follow_slowly() -> None:
    layer, s = PrototypeLayer(3, 4), features(50, 3) * 5 + 4
    layer.standardised_by_batch(s, momentum=0.1)
    np.testing.assert_allclose(layer.mean, 0.1 * s.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.std, 0.9 + 0.1 * s.numpy().std(0), rtol=1e-5)


def test_the_paper_feeds_activations_as_they_are() -> None:
    layer, s = PrototypeLayer(3, 4, standardise=False), torch.rand(5, 3)
    layer.follow(s)
    assert torch.equal(layer.standardised_by_batch(s), s)
    assert torch.equal(layer.standardised(s), s)


def test_a_batch_of_one_has_no_spread() -> None:
    layer, s = PrototypeLayer(3, 4), torch.rand(1, 3, requires_grad=True)
    condition = layer.standardised_by_batch(s)
    condition.sum().backward()
    assert not condition.any()
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert not layer.mean.any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "count is 0; it must be greater than 0"),
        ({"count": 3, "dim": -1}, "dim is -1"),
        ({"count": 3, "temperature": 0.0}, "temperature is 0.0"),
        ({"count": 3, "epsilon": 0.0}, "epsilon is 0.0; it must be greater"),
        ({"count": 3, "epsilon": 1.0}, "epsilon is 1.0; it must be below 1"),
    ],
)
def test_wrong_options(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        PrototypeLayer(**arguments)
