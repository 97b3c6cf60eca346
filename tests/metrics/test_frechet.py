import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import (
    FeatureStatistics,
    FrechetDistance,
    RandomFeatures,
    cached_arrays,
    feature_statistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    statistics_distance,
)


def features(n=400, d=24, shift=0.0, seed=0):
    """Correlated and non-negative, like pooled activations."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(99))
    return (torch.randn(n, d, generator=generator) @ mixing + shift).relu()


def fidelity(a, b):
    statistics = [fid_features_to_statistics(x) for x in (a, b)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def test_frechet_distance_equals_torch_fidelity():
    a, b = features(), features(300, shift=0.3, seed=1)
    expected = fidelity(a.double(), b.double())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a.numpy(), b.half()) == pytest.approx(expected, rel=1e-3)


def test_frechet_distance_with_fewer_images_than_dimensions():
    a, b = features(20, 64), features(30, 64, shift=0.3, seed=1)
    assert frechet_distance(a, b) == pytest.approx(fidelity(a.double(), b.double()), rel=1e-3)


def test_frechet_distance_of_gaussians_in_closed_form():
    # Diagonal covariances: Σ (μ_a − μ_b)² + (σ_a − σ_b)².
    a = FeatureStatistics(9, torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([1.0, 4.0])).double())
    b = FeatureStatistics(9, torch.tensor([3.0, 1.0]).double(), torch.diag(torch.tensor([9.0, 0.0])).double())
    assert statistics_distance(a, b) == pytest.approx(9 + 4 + 4)
    x = features()
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * x.shape[1], rel=1e-6)


def test_read_only_and_reversed_arrays_are_fine():
    a, b = features(), features(300, shift=0.3, seed=1)
    frozen = a.numpy()[:, ::-1]
    frozen.flags.writeable = False
    assert frechet_distance(frozen, b.numpy()[::-1, ::-1]) == pytest.approx(frechet_distance(a, b), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kernel_distance_equals_torch_fidelity_on_whole_sets(shift):
    a, b = features(200), features(200, shift=shift, seed=1)
    expected = kid_features_to_metric(a.double(), b.double(), kid_subsets=1, kid_subset_size=200, verbose=False)
    mean, std = kernel_distance(a, b, subsets=2)
    assert mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
    assert std == pytest.approx(0, abs=1e-9 * abs(mean))


def test_kernel_distance_over_subsets_is_unbiased_and_seeded():
    a, b = features(500), features(500, shift=0.5, seed=1)
    whole, _ = kernel_distance(a, b, subsets=1)
    mean, std = kernel_distance(a, b, subsets=60, subset_size=50)
    assert abs(mean - whole) < 3 * std / 60**0.5
    assert kernel_distance(a, b, subsets=3, subset_size=50, seed=1) == kernel_distance(a, b, 3, 50, seed=1)
    assert kernel_distance(a, b, subsets=3, subset_size=50, seed=1) != kernel_distance(a, b, 3, 50, seed=2)


def test_inception_score_equals_torch_fidelity_and_its_bounds():
    logits = 3 * torch.randn(100, 12, generator=torch.Generator().manual_seed(0))
    expected = isc_features_to_metric(logits, splits=5, shuffle=False)
    mean, std = inception_score(logits, splits=5)
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-9)
    assert std == pytest.approx(expected["inception_score_std"], rel=1e-6)
    assert inception_score(100 * torch.eye(7).repeat(3, 1), splits=1)[0] == pytest.approx(7)
    assert inception_score(torch.zeros(20, 7), splits=2) == pytest.approx((1, 0))


def test_precision_recall_equals_torch_fidelity():
    real, generated = features(1100, 8), 0.6 * features(300, 8, seed=1)
    options = {"prc_neighborhood": 3, "prc_batch_size": 10_000, "save_cpu_ram": False, "verbose": False}
    expected = prc_features_to_metric(generated.double(), real.double(), **options)
    precision, recall = precision_recall(real, generated)
    assert 0 < recall < precision < 1
    assert (precision, recall) == pytest.approx((expected["precision"], expected["recall"]))


def test_precision_sees_strange_images_and_recall_sees_missing_ones():
    line = torch.arange(100.0)[:, None].expand(-1, 2)
    assert precision_recall(line, line[:50]) == (1.0, pytest.approx(0.53))  # the last balls reach three further
    assert precision_recall(line[:50], line) == (pytest.approx(0.53), 1.0)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (features(1), features(), "a set of 1 images has no spread"),
        (features(), torch.where(torch.arange(400)[:, None] == 7, torch.nan, features()), "row 7 is not finite"),
        (features(d=24), features(d=12), "features of 24 and 12 dimensions"),
    ],
)
def test_wrong_features_are_named(a, b, message):
    with pytest.raises(InvalidOptionError, match=message):
        frechet_distance(a, b)


def test_too_few_neighbours_are_named():
    with pytest.raises(InvalidOptionError, match="3 neighbours need more than 3 images"):
        precision_recall(features(3), features(5))


def images(n, seed=0):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def metric_of(real, generated, batch=7):
    metric = FrechetDistance(RandomFeatures(width=4))
    for x, side in ((real, True), (generated, False)):
        for part in x.split(batch):
            metric.update(part, real=side)
    return metric


def test_metric_equals_the_function_at_any_batch_size_and_under_autocast():
    real, generated, network = images(40), images(30, seed=1) * 0.8, RandomFeatures(width=4)
    expected = fidelity(network(real).double(), network(generated).double())
    with torch.autocast("cpu", torch.bfloat16):
        metric = metric_of(real, generated)
    value = metric.compute()
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert float(metric_of(real, generated, batch=40).compute()) == pytest.approx(expected, rel=1e-6)
    assert metric.name == "Frechet distance (RandomFeatures)"
    metric.reset()
    assert int(metric.real_n) == 0


def test_metric_is_exact_over_ranks_of_uneven_size():
    real, generated = images(41), images(29, seed=1) * 0.8
    ranks = [metric_of(real[:10], generated[:25]), metric_of(real[10:], generated[25:])]
    names = ("real_n", "real_sum", "real_outer", "generated_n", "generated_sum", "generated_outer")
    gathered = {id(getattr(ranks[0], name)): [getattr(rank, name) for rank in ranks] for name in names}
    ranks[0].distributed_available_fn = lambda: True
    ranks[0].dist_sync_fn = lambda state, group=None: gathered[id(state)]
    assert float(ranks[0].compute()) == pytest.approx(float(metric_of(real, generated).compute()), rel=1e-6)
    assert int(ranks[0].real_n) == 10


def test_metric_takes_cached_real_statistics(tmp_path):
    real, generated, network = images(40), images(30, seed=1) * 0.8, RandomFeatures(width=4)
    for _ in range(2):
        arrays = cached_arrays(tmp_path, {"data": 1}, lambda: feature_statistics(network(real)).to_arrays())
        metric = FrechetDistance(network)
        metric.set_real(FeatureStatistics.from_arrays(arrays))
        metric.update(generated, real=False)
        assert float(metric.compute()) == pytest.approx(frechet_distance(network(real), network(generated)), rel=1e-6)
    assert metric.statistics(real=True).n == 40


def test_metric_names_what_is_missing():
    with pytest.raises(InvalidOptionError, match="Flatten has no integer num_features"):
        FrechetDistance(torch.nn.Flatten())
    metric = FrechetDistance(RandomFeatures(width=4))
    metric.update(images(5), real=True)
    metric.update(images(1), real=False)
    with pytest.raises(InvalidOptionError, match=r"1 generated images; Frechet distance .* needs at least 2"):
        metric.compute()


def test_statistics_are_numpys():
    x = features().double()
    statistics = feature_statistics(x)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.numpy(), rowvar=False))
    np.testing.assert_allclose(statistics.mean, x.numpy().mean(axis=0))
