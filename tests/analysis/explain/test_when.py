import math

import pytest
import torch
from scipy.stats import bootstrap, kendalltau

from patronus_pl.analysis.editing.inverting import invert, no_louder_than_noise
from patronus_pl.analysis.explain.when import emergence, first_passage, order
from patronus_pl.diffusion.sampling import Sampling
from tests.analysis.painter import images, painter

TEN_STEPS = Sampling(10)


class TestFirstPassage:
    def test_is_linear_between_steps(self):
        t = torch.tensor([900, 600, 300, 0])
        curve = torch.tensor([[0.0, 0.2, 0.8, 1.0], [0.5, 0.6, 0.7, 0.8], [0.0, 0.6, 0.1, 0.6], [0.0, 0.1, 0.2, 0.3]])
        found = first_passage(t, curve, torch.full((4,), 0.5))
        assert found[:3].tolist() == pytest.approx([450, 900, 650])
        assert found[3].isnan()

    def test_reaches_a_step_exactly(self):
        found = first_passage(torch.tensor([9, 5]), torch.tensor([[0.0, 1.0]]), torch.tensor([1.0]))
        assert found.item() == 5


class TestEmergence:
    def test_of_a_painter_that_holds_quarters_back(self):
        """With 10 steps t is 999, 899, ..., 99; a quarter held back for t ≥ 600 appears at 599, half way from 699."""
        model = painter(shown=[600, 1000, 50, 150])
        found = emergence(model, invert(model, images(3), TEN_STEPS), None, TEN_STEPS)
        assert found.t.tolist() == list(range(999, 0, -100))
        assert found.t50.tolist() == pytest.approx([649, 999, float("nan"), 149], nan_ok=True)
        assert found.t10[[0, 3]].tolist() == pytest.approx([689, 189], abs=0.1)
        assert found.t90[[0, 3]].tolist() == pytest.approx([609, 109], abs=0.1)
        expected = torch.zeros(4, 10)
        expected[0, 4:], expected[1], expected[3, 9:] = 1, 1, 1
        torch.testing.assert_close(found.map[[0, 1, 3]], expected[[0, 1, 3]], atol=1e-3, rtol=0)
        assert found.map[2].isnan().all()

    def test_plateau_and_band_are_over_images(self):
        model, x, sampling = painter(), images(5), Sampling(4, batch_size=3)
        found = emergence(model, invert(model, x, sampling), [3, 1], sampling)
        rise = (model.activation_high - model.encode(x))[:, [3, 1]]
        assert found.plateau == pytest.approx(rise.mean(0), abs=1e-3)
        assert found.band.numpy() == pytest.approx(rise.std(0, correction=0)[:, None].expand(2, 4).numpy(), abs=1e-3)
        assert found.prototypes.tolist() == [3, 1]

    def test_is_the_difference_of_two_runs(self, tiny_model):
        tiny_model.activation_high.fill_(3.0)
        x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        found = emergence(tiny_model, invert(tiny_model, x, Sampling(3)), [1], Sampling(3))
        s = tiny_model.encode(x).detach()
        x_T = no_louder_than_noise(tiny_model.invert(x, s, 3, refine=1))
        edited = s.clone()
        edited[:, 1] = 3.0
        with torch.no_grad():
            runs = zip(tiny_model.sample_steps(x_T, edited, 3), tiny_model.sample_steps(x_T, s, 3), strict=True)
            rise = [tiny_model.encode(a.x_0)[:, 1] - tiny_model.encode(b.x_0)[:, 1] for a, b in runs]
        torch.testing.assert_close(found.curve[0], torch.stack([r.mean() for r in rise]), rtol=1e-3, atol=1e-5)


class TestOrder:
    def test_counts_pairs(self):
        """Of the three pairs, two are in order and one is not: τ = (2 - 1) / 3."""
        found = order(torch.tensor([900.0, 300.0, 500.0]), torch.tensor([0.4, 0.2, 0.1]))
        assert found.tau == pytest.approx(1 / 3)
        assert found.prototypes == 3

    def test_the_interval_is_that_of_resampled_prototypes(self):
        times, values = torch.rand(2, 12, generator=torch.Generator().manual_seed(0))
        values = values + 2 * times
        found = order(times, values)
        expected = bootstrap(
            (times.numpy(), values.numpy()),
            lambda x, y: kendalltau(x, y).statistic,
            n_resamples=1000,
            paired=True,
            vectorized=False,
            method="percentile",
            random_state=1,
        ).confidence_interval
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.08)
        assert found.low < found.tau < found.high
        assert order(times, times).low == pytest.approx(1)

    def test_ties_count_for_half(self):
        """τ_b = (C - D) / √((pairs - ties in x) (pairs - ties in y)): C = 2, D = 0, one tie in x."""
        found = order(torch.tensor([900.0, 900.0, 100.0]), torch.tensor([0.4, 0.3, 0.1]))
        assert found.tau == pytest.approx(2 / (2 * 3) ** 0.5)

    def test_unknown_ones_do_not_count(self):
        nan = torch.nan
        found = order(torch.tensor([900.0, nan, 100.0, 500.0]), torch.tensor([0.4, 0.9, 0.1, nan]))
        assert (found.tau, found.prototypes) == (pytest.approx(1), 2)

    @pytest.mark.parametrize("times", [[999.0, 999.0, 999.0], [999.0, torch.nan, torch.nan], [torch.nan] * 3])
    def test_where_nothing_can_be_ordered(self, times):
        assert math.isnan(order(torch.tensor(times), torch.tensor([0.1, 0.2, 0.3])).tau)
