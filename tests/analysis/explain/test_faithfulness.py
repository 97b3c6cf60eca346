from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from patronus_pl.analysis.editing.inverting import no_louder_than_noise
from patronus_pl.analysis.editing.jobs import turn_up
from patronus_pl.analysis.explain.faithfulness import Faithfulness, faithfulness, rank_correlation
from patronus_pl.analysis.explain.reconstruction import reconstruct
from patronus_pl.analysis.explain.use import use_ratio
from patronus_pl.diffusion import NoiseSource
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from tests.analysis.edited import inverted_and_back, turned_up
from tests.analysis.painter import images, paint, painter

FOUR_STEPS = Sampling(4)
MIXING = torch.tensor([[0.8, 0.0, 0.1, 0.0], [0.3, 0.5, 0.0, 0.0], [0.0, 0.0, -0.6, 0.0], [0.0, 0.25, 0.0, 0.0]])
"""Column j: what a unit of prototype j does to all. The fourth prototype does nothing at all."""


def card_of(
    model: PatronusModule,
    x: torch.Tensor,
    prototypes: Sequence[int] | None = None,
    levels: int = 5,
    sampling: Sampling = FOUR_STEPS,
    keep: int = 0,
) -> Faithfulness:
    return faithfulness(model, turned_up(model, x, sampling, prototypes), levels, sampling, keep)


class TestFaithfulness:
    def test_a_painter_that_does_as_it_is_told_is_perfect(self):
        card = card_of(painter(), images(3))
        assert card.slope == pytest.approx(1, abs=1e-3)
        assert card.rank_correlation == pytest.approx(1, abs=1e-6)
        assert card.leakage.numpy() == pytest.approx(np.eye(4), abs=1e-3)
        assert card.inside_box == pytest.approx(1, abs=1e-4)
        assert card.box_share.tolist() == [0.25] * 4
        assert card.realised.numpy() == pytest.approx(card.requested.numpy(), abs=1e-3)
        assert card.requested[1].tolist() == pytest.approx([-0.4, -0.15, 0.1, 0.35, 0.6])
        assert (card.round_trip_psnr > 60).all()
        summary = card.summary()
        assert (summary["slope"], summary["leakage_median"], summary["flagged"], summary["images"]) == pytest.approx(
            (1, 0, 0, 3), abs=1e-3
        )

    def test_guidance_makes_up_for_what_falls_short(self):
        """A painter that does s · mixing does s · w · mixing under a weight w; its last prototype reacts to nothing."""
        model, weights = painter(MIXING), torch.tensor([1.25, 2.0, 1.0, 1.0])
        x_T, back = inverted_and_back(model, images(3), FOUR_STEPS)
        card = faithfulness(model, turn_up(model, x_T, back, None, FOUR_STEPS, weights), 3, FOUR_STEPS)
        assert card.slope == pytest.approx((MIXING.diagonal() * weights).tolist(), abs=2e-3)

    def test_the_size_of_an_edit_is_the_squared_change_of_its_quarter(self):
        """All 16 pixels of a quarter go from the low to the high end of the range."""
        model = painter()
        span = (model.activation_high - model.activation_low).numpy()
        assert card_of(model, images(3)).size.numpy() == pytest.approx(16 * span**2, rel=1e-3)

    def test_slope_and_leakage_are_those_of_the_mixing(self):
        model = painter(MIXING)
        card = card_of(model, images(4))
        sigma = model.prototypes.std
        assert card.slope == pytest.approx(MIXING.diagonal(), abs=1e-3)
        assert card.leakage.numpy() == pytest.approx((MIXING.abs().T * sigma[:, None] / sigma).numpy(), abs=1e-3)
        assert card.rank_correlation[:3].tolist() == pytest.approx([1, 1, -1])
        others = card.leakage[0, 1:]
        assert card.leakage_mean[0] == pytest.approx(float(others.mean()), abs=1e-6)
        assert card.leakage_median[0] == pytest.approx(float(others.median()), abs=1e-6)

    def test_change_is_inside_the_box_as_far_as_it_goes_there(self):
        card = card_of(painter(MIXING), images(4))
        share = MIXING.diagonal().square() / MIXING.square().sum(0)
        assert card.inside_box[:3] == pytest.approx(share[:3], abs=1e-3)

    def test_some_prototypes_are_rows_of_all(self):
        model = painter(MIXING)
        some, all_ = card_of(model, images(3), [2, 0]), card_of(model, images(3))
        assert some.prototypes.tolist() == [2, 0]
        for name in ("slope", "rank_correlation", "leakage", "inside_box", "realised", "leakage_mean"):
            torch.testing.assert_close(getattr(some, name), getattr(all_, name)[[2, 0]], atol=1e-5, rtol=1e-4)

    def test_prototypes_without_a_range_have_no_slope(self):
        model = painter()
        model.activation_high[1] = model.activation_low[1]
        card = card_of(model, images(3))
        assert card.slope.isnan().tolist() == [False, True, False, False]
        assert card.rank_correlation.isnan().tolist() == [False, True, False, False]
        assert card.summary()["slope"] == pytest.approx(1, abs=1e-3)

    def test_summary_counts_the_live_only(self):
        card = card_of(painter(MIXING), images(3))
        live = torch.tensor([True, True, False, False])
        assert card.summary(live)["slope"] == pytest.approx((0.8 + 0.5) / 2, abs=1e-3)
        assert card.summary()["slope"] == pytest.approx((0.5 + 0.0) / 2, abs=1e-3)

    def test_a_prototype_whose_edit_comes_back_is_unused(self):
        card = card_of(painter(MIXING), images(3))
        assert card.unused.tolist() == [slope < 0.1 for slope in MIXING.diagonal()]
        assert card.unused.any()
        assert not card.unused.all()

    def test_a_model_that_does_not_standardise_is_measured_by_its_ranges(self):
        model = painter(MIXING)
        model.prototypes.standardise = False
        card = card_of(model, images(3))
        span = model.activation_high - model.activation_low
        assert card.leakage.numpy() == pytest.approx((MIXING.abs().T * span[:, None] / span).numpy(), abs=1e-3)

    def test_pictures_are_kept_if_asked(self):
        model, x = painter(), images(3)
        card = card_of(model, x, [1], levels=3, keep=2)
        assert card.pictures.shape == (1, 2, 3, 1, 8, 8)
        s = model.encode(x)[1].repeat(3, 1)
        s[:, 1] = torch.tensor([-0.4, 0.1, 0.6])
        assert (card.pictures[0, 1].float() - (paint(s) + 1) * 127.5).abs().max() < 0.51
        assert card_of(model, x, [1]).pictures.shape[1] == 0

    def test_batches_change_nothing(self, tiny_model):
        tiny_model.activation_high.fill_(2.0)
        x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        one, other = (card_of(tiny_model, x, levels=3, sampling=Sampling(2, batch_size=size)) for size in (64, 4))
        for name in ("slope", "leakage", "inside_box", "round_trip_psnr"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-2, atol=1e-4)

    def test_unknown_prototypes_are_named(self):
        with pytest.raises(InvalidOptionError, match=r"no prototype 9; choose 0\.\.3"):
            card_of(painter(), images(2), [9])

    def test_one_level_is_no_movement(self):
        with pytest.raises(InvalidOptionError, match="levels is 1"):
            card_of(painter(), images(2), levels=1)


def test_rank_correlation_is_that_of_scipy():
    values = torch.randn(6, 2, 7, generator=torch.Generator().manual_seed(0))
    values[0, 0, 3] = values[0, 0, 4]
    expected = [[spearmanr(np.arange(7), row).statistic for row in rows] for rows in values]
    assert rank_correlation(values).numpy() == pytest.approx(np.array(expected), abs=1e-5)
    assert rank_correlation(torch.ones(1, 5)).tolist() == [0]


class TestUseRatio:
    def test_of_a_painter_that_fades(self):
        """It predicts α x₀: the noise is off by √(ᾱ/(1-ᾱ)) times (1-α) x, and (x - α x') given another image's s."""
        alpha, x, times = 0.75, images(5), (100, 700)
        found = use_ratio(painter(alpha * torch.eye(4)), x, times, batch_size=2)
        snr = painter().schedule.snr(torch.tensor(times))
        own, other = ((1 - alpha) * x).square().mean(), (x - alpha * x.roll(1, 0)).square().mean()
        assert found.own == pytest.approx(snr * own, rel=1e-3)
        assert found.other == pytest.approx(snr * other, rel=1e-3)
        assert found.ratio == pytest.approx(float(other / own), rel=1e-3)
        assert found.t.tolist() == [100, 700]

    def test_is_one_where_s_is_ignored(self):
        found = use_ratio(painter(torch.zeros(4, 4)), images(4))
        assert found.ratio == pytest.approx(1)

    def test_needs_another_image(self):
        with pytest.raises(InvalidOptionError, match="1 image"):
            use_ratio(painter(), images(1))


class TestReconstruct:
    def test_is_decoding_from_inverted_and_from_random_noise(self, tiny_model):
        x, sampling = torch.rand(3, 1, 16, 16) * 2 - 1, Sampling(3, seed=5, batch_size=4)
        found = reconstruct(tiny_model, *inverted_and_back(tiny_model, x, sampling), sampling, n_random=2)
        s, noise = tiny_model.encode(x), NoiseSource(5, range(3))
        inverted = tiny_model.decode(no_louder_than_noise(tiny_model.invert(x, s, 3, refine=1)), s, 3, "dpm++")
        close = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(found.inverted, inverted, **close)
        for k in range(2):
            picture = tiny_model.decode(noise(x.shape), s, 3, "dpm++")
            torch.testing.assert_close(found.random[k], picture, **close)
            torch.testing.assert_close(found.mse_random[k], (picture - x).square().mean((1, 2, 3)), **close)
        torch.testing.assert_close(found.psnr_inverted, 10 * torch.log10(4 / found.mse_inverted), **close)
        assert found.summary()["mse_random"] == pytest.approx(float(found.mse_random.mean()))
