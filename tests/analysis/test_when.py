import pytest
import torch

from patronus_pl.analysis import commitment, emergence, survival
from patronus_pl.analysis.edit import no_louder_than_noise
from patronus_pl.analysis.when import first_passage
from patronus_pl.errors import InvalidOptionError
from tests.analysis.painter import images, painter


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
        found = emergence(model, images(3), steps=10)
        assert found.t.tolist() == list(range(999, 0, -100))
        assert found.t50.tolist() == pytest.approx([649, 999, float("nan"), 149], nan_ok=True)
        assert found.t10[[0, 3]].tolist() == pytest.approx([689, 189], abs=0.1)
        assert found.t90[[0, 3]].tolist() == pytest.approx([609, 109], abs=0.1)
        expected = torch.zeros(4, 10)
        expected[0, 4:], expected[1], expected[3, 9:] = 1, 1, 1
        torch.testing.assert_close(found.map[[0, 1, 3]], expected[[0, 1, 3]], atol=1e-3, rtol=0)
        assert found.map[2].isnan().all()

    def test_plateau_and_band_are_over_images(self):
        model, x = painter(), images(5)
        found = emergence(model, x, [3, 1], steps=4, batch_size=3)
        rise = (model.activation_high - model.encode(x))[:, [3, 1]]
        assert found.plateau == pytest.approx(rise.mean(0), abs=1e-3)
        assert found.band.numpy() == pytest.approx(rise.std(0, correction=0)[:, None].expand(2, 4).numpy(), abs=1e-3)
        assert found.prototypes.tolist() == [3, 1]

    def test_is_the_difference_of_two_runs(self, tiny_model):
        tiny_model.activation_high.fill_(3.0)
        x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        found = emergence(tiny_model, x, [1], steps=3)
        s = tiny_model.encode(x).detach()
        x_T = no_louder_than_noise(tiny_model.invert(x, s, 3, refine=1))
        edited = s.clone()
        edited[:, 1] = 3.0
        with torch.no_grad():
            runs = zip(tiny_model.sample_steps(x_T, edited, 3), tiny_model.sample_steps(x_T, s, 3), strict=True)
            rise = [tiny_model.encode(a.x_0)[:, 1] - tiny_model.encode(b.x_0)[:, 1] for a, b in runs]
        torch.testing.assert_close(found.curve[0], torch.stack([r.mean() for r in rise]), rtol=1e-3, atol=1e-5)


class TestSurvival:
    def test_of_a_painter_that_settles(self):
        """What is painted at the last step ≥ settle stays; with 10 steps that is 599 for 550, and 99 for 0."""
        model = painter(settle=[550, 0, 850, 150])
        windows = [(0, 999), (590, 610), (600, 999), (0, 598), (0, 99), (890, 950)]
        found = survival(model, images(3), windows, steps=10)
        expected = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 1, 0], [1, 0, 1, 0, 0, 1], [1, 0, 0, 1, 0, 0.0]])
        torch.testing.assert_close(found.share, expected, atol=1e-3, rtol=0)
        assert found.windows.tolist() == [list(span) for span in windows]
        assert found.effect == pytest.approx((model.activation_high - model.encode(images(3))).mean(0), abs=1e-3)

    def test_nothing_survives_where_there_is_no_effect(self):
        assert survival(painter(torch.zeros(4, 4)), images(2), [(0, 999)], steps=4).share.isnan().all()

    def test_full_window_is_the_edit_itself(self, tiny_model):
        tiny_model.activation_low.fill_(5.0)
        tiny_model.activation_high.fill_(5.0)  # no range at all, so that any effect counts
        x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        found = survival(tiny_model, x, [(0, 999)], steps=3, batch_size=1)
        known = ~found.share.isnan()
        assert known.any()
        assert (found.share[known] - 1).abs().sum() == 0

    @pytest.mark.parametrize(
        ("windows", "message"),
        [([], "no windows"), ([(5, 4)], r"window \(5, 4\)"), ([(0, 1000)], r"does not lie in 0\.\.999")],
    )
    def test_wrong_windows_are_named(self, windows, message):
        with pytest.raises(InvalidOptionError, match=message):
            survival(painter(), images(2), windows)


class TestCommitment:
    def test_of_a_painter_that_settles(self):
        model = painter(settle=[550, 0, 850, 150])
        found = commitment(model, images(3), releases=10, steps=10)
        assert found.t.tolist() == list(range(999, 0, -100))
        assert found.t50.tolist() == pytest.approx([649, 149, 949, 249], abs=0.1)
        assert found.t10[0] == pytest.approx(689, abs=0.1)
        assert found.t90[0] == pytest.approx(609, abs=0.1)
        assert found.share[:, -1].tolist() == [1] * 4

    def test_fewer_releases_are_a_part_of_them(self):
        model = painter(settle=[550, 0, 850, 150])
        found = commitment(model, images(3), [2], releases=5, steps=10)
        assert found.t.tolist() == [899, 699, 499, 299, 99]
        assert found.share[0].tolist() == pytest.approx([1] * 5, abs=1e-3)
        assert found.t50.item() == 899

    def test_disagrees_where_an_edit_shows_long_before_it_lasts(self):
        model = painter(settle=[550, 0, 850, 150])
        late, shows = commitment(model, images(3), releases=10, steps=10), emergence(model, images(3), steps=10)
        assert late.disagrees(shows).tolist() == [True, True, False, True]
        assert late.disagrees(shows, tolerance=400).tolist() == [False, True, False, True]

    def test_without_an_effect_nothing_disagrees(self):
        model = painter(torch.zeros(4, 4))
        found = commitment(model, images(2), releases=2, steps=2)
        assert torch.stack([found.t50, found.share[:, -1]]).isnan().all()
        assert not found.disagrees(emergence(model, images(2), steps=2)).any()

    def test_wrong_input_is_named(self):
        model = painter()
        with pytest.raises(InvalidOptionError, match=r"releases is 1; choose 2\.\.4"):
            commitment(model, images(2), releases=1, steps=4)
        shows = emergence(model, images(2), [1], steps=2)
        with pytest.raises(InvalidOptionError, match="different prototypes"):
            commitment(model, images(2), [2], releases=2, steps=2).disagrees(shows)
