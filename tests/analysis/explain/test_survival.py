import pytest
import torch

from patronus_pl.analysis.explain.survival import Commitment, commitment, survival
from patronus_pl.analysis.explain.when import emergence
from patronus_pl.errors import InvalidOptionError
from tests.analysis.painter import images, painter


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
    def test_is_what_survival_finds_in_its_windows(self, tiny_model):
        """Runs that share their beginning give what whole runs give: on in (t, T-1), and on in (0, t - 1)."""
        tiny_model.activation_low.fill_(5.0)
        tiny_model.activation_high.fill_(5.0)  # no range at all, so that any effect counts
        x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        found = commitment(tiny_model, x, [2, 0], releases=3, steps=6, batch_size=4)
        times = found.t.tolist()
        assert times == tiny_model.schedule.respaced(6)[4::-2]
        windows = [*((t, 999) for t in times), *((0, t - 1) for t in times[:2])]
        whole = survival(tiny_model, x, windows, [2, 0], steps=6)
        assert not whole.share.isnan().all()
        torch.testing.assert_close(found.effect, whole.effect, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(found.until, whole.share[:, :3], rtol=1e-2, atol=1e-3, equal_nan=True)
        torch.testing.assert_close(found.after[:, :2], whole.share[:, 3:], rtol=1e-2, atol=1e-3, equal_nan=True)

    def test_a_painter_without_memory_decides_at_the_last_step(self):
        found = commitment(painter(), images(3), releases=5, steps=10)
        assert found.t.tolist() == [899, 699, 499, 299, 99]
        torch.testing.assert_close(found.until, torch.eye(5)[4].expand(4, 5), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.after, 1 - torch.eye(5)[4].expand(4, 5), atol=1e-3, rtol=0)
        assert found.t50.tolist() == pytest.approx([199] * 4, abs=0.5)  # half way between the last two switches

    def test_what_was_held_back_is_decided_later_still(self):
        """A quarter that is grey until 50 is not there at the last step, 99, so it has no effect to decide."""
        found = commitment(painter(shown=[1000, 50, 1000, 1000]), images(2), releases=2, steps=10)
        assert found.t50.isnan().tolist() == [False, True, False, False]

    def test_decided_is_the_mean_of_what_remains_and_what_is_lost(self):
        t = torch.tensor([900, 600, 300, 0])
        until = torch.tensor([[0.0, 0.2, 0.6, 1.0], [0.0, 0.0, 0.0, 1.0]])
        after = torch.tensor([[1.0, 0.8, 0.2, 0.0], [1.0, 0.4, 0.0, 0.0]])
        found = Commitment(torch.arange(2), t, torch.ones(2), until, after)
        expected = torch.tensor([[0.0, 0.2, 0.7, 1.0], [0.0, 0.3, 0.5, 1.0]])
        torch.testing.assert_close(found.decided, expected)
        assert found.t50.tolist() == pytest.approx([600 - 300 * 0.3 / 0.5, 300])
        assert found.t10.tolist() == pytest.approx([750, 800])
        assert found.t90.tolist() == pytest.approx([100, 60])

    def test_disagrees_where_an_edit_shows_long_before_it_is_decided(self):
        model = painter(shown=[1000, 1000, 250, 1000])
        decided, shows = commitment(model, images(3), releases=10, steps=10), emergence(model, images(3), steps=10)
        assert decided.disagrees(shows).tolist() == [True, True, False, True]
        assert not decided.disagrees(shows, tolerance=1000).any()

    def test_without_an_effect_nothing_disagrees(self):
        model = painter(torch.zeros(4, 4))
        found = commitment(model, images(2), releases=2, steps=2)
        assert torch.stack([found.t50, found.until[:, -1], found.after[:, 0]]).isnan().all()
        assert not found.disagrees(emergence(model, images(2), steps=2)).any()

    def test_wrong_input_is_named(self):
        model = painter()
        with pytest.raises(InvalidOptionError, match=r"releases is 1; choose 2\.\.4"):
            commitment(model, images(2), releases=1, steps=4)
        shows = emergence(model, images(2), [1], steps=2)
        with pytest.raises(InvalidOptionError, match="different prototypes"):
            commitment(model, images(2), [2], releases=2, steps=2).disagrees(shows)
