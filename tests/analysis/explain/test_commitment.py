from collections.abc import Sequence

import pytest
import torch

from patronus_pl.analysis.editing.inverting import invert
from patronus_pl.analysis.explain.commitment import Commitment, commitment
from patronus_pl.analysis.explain.when import Emergence, emergence
from patronus_pl.diffusion.samplers import ddim, last
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from tests.analysis.painter import images, painter


def found_in(
    model: PatronusModule, x: torch.Tensor, releases: int, sampling: Sampling, prototypes: Sequence[int] | None = None
) -> tuple[Commitment, Emergence]:
    return commitment(model, invert(model, x, sampling), prototypes, releases, sampling)


def switched_on(model: PatronusModule, x: torch.Tensor, j: int, steps: int, span: tuple[int, int]) -> torch.Tensor:
    """s_j of what a whole run of DDIM makes, with prototype j turned up inside the span of timesteps."""
    s = model.encode(x)
    x_T = invert(model, x, Sampling(steps)).x_T
    edited = s.clone()
    edited[:, j] = model.activation_high[j]
    on, off = model.denoiser_for(edited), model.denoiser_for(s)
    run = ddim(
        lambda x_t, t: (on if span[0] <= int(t[0]) <= span[1] else off)(x_t, t),
        x_T,
        model.schedule,
        model.schedule.respaced(steps),
        clip=True,
    )
    return model.encode(last(run))[:, j]


class TestCommitment:
    @torch.no_grad()
    def test_runs_that_share_their_beginning_give_what_whole_runs_give(self, tiny_model):
        """The edit is on in (t, T-1) for `until`, and in (0, t - 1) for `after`."""
        tiny_model.activation_low.fill_(5.0)
        tiny_model.activation_high.fill_(5.0)  # no range at all, so that any effect counts
        x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        found, _ = found_in(tiny_model, x, 3, Sampling(6, batch_size=4), [2, 0])
        times = found.t.tolist()
        assert times == tiny_model.schedule.respaced(6)[4::-2]
        assert not found.until.isnan().all()
        for p, j in enumerate([2, 0]):
            unedited = switched_on(tiny_model, x, j, 6, (1000, 1000))
            until, after = (
                torch.stack([(switched_on(tiny_model, x, j, 6, span) - unedited).mean() for span in spans])
                for spans in ([(t, 999) for t in times], [(0, t - 1) for t in times[:2]])
            )
            torch.testing.assert_close(found.effect[p], until[-1], rtol=1e-3, atol=1e-6)
            if found.effect[p] > 0:
                torch.testing.assert_close(found.until[p], until / until[-1], rtol=1e-2, atol=1e-3)
                torch.testing.assert_close(found.after[p, :2], after / until[-1], rtol=1e-2, atol=1e-3)

    def test_of_a_painter_that_settles(self):
        """What is painted at the last step >= settle stays; with 10 steps that is 599 for 550, and 99 for 0."""
        model = painter(settle=[550, 0, 850, 150])
        found, _ = found_in(model, images(3), 10, Sampling(10))
        decisive = torch.tensor([599, 99, 899, 199])[:, None]
        torch.testing.assert_close(found.until, (found.t <= decisive).float(), atol=1e-3, rtol=0)
        assert found.effect == pytest.approx((model.activation_high - model.encode(images(3))).mean(0), abs=1e-3)

    def test_its_emergence_is_that_of_emergence_alone(self, tiny_model):
        tiny_model.activation_high.fill_(3.0)
        x, sampling = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1, Sampling(4)
        inverted = invert(tiny_model, x, sampling)
        _, found = commitment(tiny_model, inverted, [2, 0], 2, sampling)
        alone = emergence(tiny_model, inverted, [2, 0], sampling)
        for name, value in vars(alone).items():
            torch.testing.assert_close(getattr(found, name), value, equal_nan=True)

    def test_a_painter_without_memory_decides_at_the_last_step(self):
        found, _ = found_in(painter(), images(3), 5, Sampling(10))
        assert found.t.tolist() == [899, 699, 499, 299, 99]
        torch.testing.assert_close(found.until, torch.eye(5)[4].expand(4, 5), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.after, 1 - torch.eye(5)[4].expand(4, 5), atol=1e-3, rtol=0)
        assert found.t50.tolist() == pytest.approx([199] * 4, abs=0.5)  # half way between the last two switches

    def test_what_was_held_back_is_decided_later_still(self):
        """A quarter that is grey until 50 is not there at the last step, 99, so it has no effect to decide."""
        found, _ = found_in(painter(shown=[1000, 50, 1000, 1000]), images(2), 2, Sampling(10))
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
        decided, shows = found_in(model, images(3), 10, Sampling(10))
        assert decided.disagrees(shows).tolist() == [True, True, False, True]
        assert not decided.disagrees(shows, tolerance=1000).any()

    def test_without_an_effect_nothing_disagrees(self):
        model = painter(torch.zeros(4, 4))
        found, shows = found_in(model, images(2), 2, Sampling(2))
        assert torch.stack([found.t50, found.until[:, -1], found.after[:, 0]]).isnan().all()
        assert not found.disagrees(shows).any()

    def test_wrong_input_is_named(self):
        model = painter()
        with pytest.raises(InvalidOptionError, match=r"releases is 1; choose 2\.\.4"):
            found_in(model, images(2), 1, Sampling(4))
        _, shows = found_in(model, images(2), 2, Sampling(2), [1])
        decided, _ = found_in(model, images(2), 2, Sampling(2), [2])
        with pytest.raises(InvalidOptionError, match="different prototypes"):
            decided.disagrees(shows)
