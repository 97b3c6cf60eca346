import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from patronus_pl.analysis.attributes.reading import best_attribute
from patronus_pl.analysis.explain.census import census, effective_rank
from patronus_pl.analysis.explain.consistency import consistency
from patronus_pl.errors import InvalidOptionError


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whitened(n, m):
    """Rows whose columns are exactly uncorrelated, with mean 0 and variance 1."""
    q = torch.linalg.qr(normal(n, m).double() - normal(n, m).double().mean(0)).Q
    return q * n**0.5


class TestEffectiveRank:
    def test_of_the_identity_is_its_size(self):
        assert effective_rank(torch.eye(7)) == pytest.approx(7)

    def test_of_one_direction_is_one(self):
        assert effective_rank(torch.ones(5, 5)) == pytest.approx(1)

    def test_of_nothing_is_zero(self):
        assert effective_rank(torch.zeros(3, 3)) == 0

    @pytest.mark.parametrize("rho", [0.2, 0.9])
    def test_of_equal_correlations(self, rho):
        m = 6
        matrix = torch.full((m, m), rho).fill_diagonal_(1)
        p = np.array([1 + (m - 1) * rho, *[1 - rho] * (m - 1)]) / m
        assert effective_rank(matrix) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)


class TestCensus:
    def test_of_independent_prototypes(self):
        s = whitened(200, 5) * torch.tensor([1.0, 2, 3, 4, 5]) + 3
        found = census(s, normal(5, 8))
        assert found.effective_rank == pytest.approx(5, abs=1e-4)
        assert found.mean_abs_correlation == pytest.approx(0, abs=1e-6)
        assert found.std == pytest.approx(s.numpy().std(0), rel=1e-5)
        assert found.live.all()
        assert found.duplicates == []

    def test_names_the_dead(self):
        s = whitened(100, 8)
        s[:, 1] = 4.2
        s[:, 3] *= 0.04
        s[:, 4] *= 0.06
        found = census(s, normal(8, 8))
        assert found.dead.nonzero().flatten().tolist() == [1, 3]
        assert found.effective_rank == pytest.approx(6, abs=1e-4)

    def test_all_constant_are_all_dead(self):
        found = census(torch.full((10, 3), 0.7), normal(3, 8))
        assert found.dead.all()
        assert found.effective_rank == 0
        assert np.isfinite(list(found.summary().values())).all()

    def test_names_duplicates_the_closest_first(self):
        base, noise = whitened(300, 6).unbind(1), 0.2
        s = torch.stack([base[0], base[1], base[2], -base[1], base[0] + noise * base[3], base[4] + base[5]], dim=1)
        found = census(s, normal(6, 8))
        assert found.duplicates == [(1, 3), (0, 4)]
        assert found.correlation[0, 4] == pytest.approx(1 / (1 + noise**2) ** 0.5, rel=1e-5)
        assert found.mean_abs_correlation == pytest.approx((1 + 1 / (1 + noise**2) ** 0.5) / 15, rel=1e-4)
        assert found.summary()["duplicates"] == 2

    def test_correlated_is_no_duplicate_yet(self):
        base = whitened(300, 2)
        s = torch.stack([base[:, 0], base[:, 0] + 0.34 * base[:, 1]], dim=1)  # correlation 0.947
        assert census(s, normal(2, 8)).duplicates == []

    def test_agrees_with_numpy_on_correlation(self):
        s = normal(50, 4) @ normal(4, 4, seed=1)
        found = census(s, normal(4, 8))
        assert found.correlation.numpy() == pytest.approx(np.corrcoef(s.numpy().T), abs=1e-5)

    def test_nearest_neighbours_are_those_of_scikit_learn(self):
        vectors = normal(12, 5)
        found = census(normal(20, 12), vectors)
        distance, index = NearestNeighbors(n_neighbors=2, metric="cosine").fit(vectors).kneighbors(vectors)
        assert found.neighbour.tolist() == index[:, 1].tolist()
        assert found.neighbour_cosine == pytest.approx(1 - distance[:, 1], abs=1e-5)

    def test_a_lone_prototype_has_no_neighbour(self):
        found = census(normal(20, 1), normal(1, 5))
        assert (found.neighbour.item(), found.mean_abs_correlation) == (-1, 0)
        assert found.neighbour_cosine.isnan().all()

    def test_global_prototypes_are_those_that_many_patches_follow(self):
        found = census(normal(20, 4), normal(4, 5), torch.tensor([0.9, 0.1, torch.nan, 0.3]))
        assert found.is_global.tolist() == [True, False, False, False]
        assert found.summary()["global"] == 1
        assert census(normal(20, 4), normal(4, 5)).summary()["global"] == 0

    def test_summary_is_plain_numbers(self):
        summary = census(normal(20, 4), normal(4, 5)).summary()
        assert {type(value) for value in summary.values()} <= {int, float}
        assert (summary["prototypes"], summary["dead"]) == (4, 0)

    def test_wrong_input_is_named(self):
        with pytest.raises(InvalidOptionError, match="1 image"):
            census(normal(1, 3), normal(3, 5))
        with pytest.raises(InvalidOptionError, match="prototypes has 4 rows but there are 3 activations"):
            census(normal(9, 3), normal(4, 5))
        with pytest.raises(InvalidOptionError, match="spread has 2 rows"):
            census(normal(9, 3), normal(3, 5), torch.zeros(2))


class TestConsistency:
    def test_of_equal_patches_is_one(self):
        features = normal(3, 1, 8).expand(3, 5, 8)
        found = consistency(features, torch.eye(8))
        assert found.similarity == pytest.approx(1, abs=1e-6)
        assert found.baseline == pytest.approx(0, abs=1e-6)
        assert torch.stack([found.gain, found.low, found.high]) == pytest.approx(1, abs=1e-5)
        assert (found.overall, found.overall_low, found.overall_high) == pytest.approx((1, 1, 1))

    def test_agrees_with_scikit_learn(self):
        features, others = normal(3, 6, 4), normal(9, 4, seed=1)
        found = consistency(features, others)

        def mean_over_pairs(rows):
            return cosine_similarity(rows)[np.triu_indices(len(rows), 1)].mean()

        assert found.similarity == pytest.approx([mean_over_pairs(rows) for rows in features], abs=1e-5)
        assert found.baseline == pytest.approx(mean_over_pairs(others), abs=1e-6)
        assert found.overall == pytest.approx(float(found.gain.mean()), abs=1e-6)

    def test_intervals_hold_nothing_where_there_is_nothing_to_find(self):
        found = consistency(normal(60, 40, 6) + 0.5, normal(300, 6, seed=1) + 0.5)
        covered = ((found.low <= 0) & (found.high >= 0)).float().mean()
        assert 0.85 <= covered <= 1
        assert found.overall_low < 0 < found.overall_high

    def test_intervals_are_around_the_gain_and_repeat(self):
        features, others = normal(4, 9, 6) + 1, normal(50, 6, seed=1)
        found, again = consistency(features, others, seed=3), consistency(features, others, seed=3)
        assert ((found.low < found.gain) & (found.gain < found.high)).all()
        assert (found.low > 0).any()
        assert torch.equal(found.low, again.low)
        assert not torch.equal(found.low, consistency(features, others, seed=4).low)

    def test_one_patch_has_no_pair(self):
        with pytest.raises(InvalidOptionError, match="1 top patches a prototype and 5 random ones"):
            consistency(normal(2, 1, 4), normal(5, 4))


class TestBestAttribute:
    def attributes(self, n=80, a=3):
        labels = (normal(n, a, seed=5) > 0).float()
        labels[::7, 1] = torch.nan
        return labels

    def test_agrees_with_scikit_learn(self):
        s, labels = normal(80, 4), self.attributes()
        s[:, 2] += labels[:, 0]
        s[:, 1] -= 2 * labels[:, 1].nan_to_num(0.5)
        read = best_attribute(s, labels, ["a", "b", "c"])
        table = np.array(
            [
                [roc_auc_score(labels[known, a], s[known, j]) for j in range(4)]
                for a, known in enumerate(~labels.T.isnan())
            ]
        )
        either = np.maximum(table, 1 - table)
        assert read.auroc.numpy() == pytest.approx(table, abs=1e-6)
        assert read.prototype.tolist() == either.argmax(1).tolist()
        assert read.attribute.tolist() == either.argmax(0).tolist()
        assert read.prototype_auroc == pytest.approx(either.max(1), abs=1e-6)
        assert read.attribute_auroc == pytest.approx(either.max(0), abs=1e-6)
        assert read.gap == pytest.approx(np.diff(np.sort(either, axis=1)[:, -2:], axis=1)[:, 0], abs=1e-6)
        assert (int(read.prototype[0]), int(read.prototype_sign[0])) == (2, 1)
        assert (int(read.prototype[1]), int(read.prototype_sign[1])) == (1, -1)
        assert (int(read.attribute[1]), int(read.attribute_sign[1])) == (1, -1)

    def test_an_attribute_that_never_varies_has_no_prototype(self):
        labels = torch.stack([torch.ones(80), self.attributes()[:, 0]], dim=1)
        read = best_attribute(normal(80, 3), labels, ["always", "sometimes"])
        assert read.prototype[0] == -1
        assert torch.stack([read.prototype_auroc[0], read.runner_up_auroc[0]]).isnan().all()
        assert (read.attribute == 1).all()
        nothing = best_attribute(normal(80, 3), torch.ones(80, 1), ["always"])
        assert (nothing.attribute == -1).all()
        assert nothing.attribute_auroc.isnan().all()

    def test_a_lone_prototype_competes_with_chance(self):
        read = best_attribute(torch.arange(4.0)[:, None], torch.tensor([[0.0], [0], [1], [1]]), ["a"])
        assert (float(read.prototype_auroc), float(read.runner_up_auroc)) == (1, 0.5)

    def test_data_without_attributes(self):
        read = best_attribute(normal(5, 3), torch.zeros(5, 0), [])
        assert read.attribute.tolist() == [-1] * 3
        assert read.prototype.shape == (0,)

    def test_names_must_match(self):
        with pytest.raises(InvalidOptionError, match="2 names for 3 attributes"):
            best_attribute(normal(80, 4), self.attributes(), ["a", "b"])
