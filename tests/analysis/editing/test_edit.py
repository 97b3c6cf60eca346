import math

import pytest
import torch

from patronus_pl.analysis.editing.changes import Change, chosen, set_activations
from patronus_pl.analysis.editing.decoding import decode, encode, interpolate, slerp
from patronus_pl.analysis.editing.inverting import invert, no_louder_than_noise
from patronus_pl.analysis.editing.jobs import jobs
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from tests.analysis.painter import images, paint, painter

LOW, HIGH = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, 6.0])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestSetActivations:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (Change(1, "absolute", 7.5), [7.5, 7.5]),
            (Change(1, "range", 0.25), [1.5, 1.5]),
            (Change(1, "range", 2.0), [5.0, 5.0]),
            (Change(1, "factor", 3.0), [6.0, 12.0]),
            (Change(1, "remove"), [1.0, 1.0]),
            (Change(1, "quantile", 0.5), [20.0, 20.0]),
            (Change(1, "quantile", 1.0), [30.0, 30.0]),
        ],
    )
    def test_each_kind(self, change, expected):
        s = torch.tensor([[0.5, 2.0, 3.0], [0.7, 4.0, 5.0]])
        reference = torch.tensor([[0.0, 10.0, 0.0], [0.0, 20.0, 0.0], [0.0, 30.0, 0.0]])
        changed = set_activations(s, [change], LOW, HIGH, reference)
        assert changed[:, 1].tolist() == expected
        assert torch.equal(changed[:, [0, 2]], s[:, [0, 2]])
        assert s[0, 1] == 2

    def test_several_in_their_order(self):
        changed = set_activations(
            torch.ones(1, 3), [Change(0, "absolute", 4), Change(0, "factor", 2), Change(2, "remove")], LOW, HIGH
        )
        assert changed.tolist() == [[8, 1, 2]]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (Change(3, "remove"), r"no prototype 3; choose 0\.\.2"),
            (Change(-1, "remove"), "no prototype -1"),
            (Change(0, "quantile", 0.5), "quantile 0.5 of prototype 0"),
        ],
    )
    def test_wrong_changes_are_named(self, change, message):
        with pytest.raises(InvalidOptionError, match=message):
            set_activations(torch.ones(1, 3), [change], LOW, HIGH)

    def test_quantiles_lie_between_0_and_1(self):
        with pytest.raises(InvalidOptionError, match=r"quantile 1\.5"):
            set_activations(torch.ones(1, 3), [Change(0, "quantile", 1.5)], LOW, HIGH, torch.ones(5, 3))

    def test_chosen(self):
        model = painter()
        assert chosen(model, None) == [0, 1, 2, 3]
        assert chosen(model, [2, 0]) == [2, 0]
        with pytest.raises(InvalidOptionError, match=r"no prototype 4; choose 0\.\.3"):
            chosen(model, [4])


class TestInvertingAndDecoding:
    def test_batches_change_nothing(self, tiny_model):
        x = torch.rand(5, 1, 16, 16) * 2 - 1
        whole, split = (invert(tiny_model, x, Sampling(3, batch_size=size)) for size in (64, 2))
        torch.testing.assert_close(whole.x_T, split.x_T, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(whole.s, tiny_model.encode(x).detach())
        torch.testing.assert_close(encode(tiny_model, x, batch_size=2), whole.s)
        one, other = (decode(tiny_model, whole.x_T, whole.s, Sampling(3, batch_size=size)) for size in (5, 2))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one, tiny_model.decode(whole.x_T, whole.s, 3, "dpm++"), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
    def test_jobs_are_all_pairs_with_all_values(self, batch_size):
        inverted = invert(painter(), images(3), Sampling(2))
        values = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
        seen = {}
        for job in jobs(inverted, [3, 1], values, batch_size, torch.device("cpu")):
            assert len(job.s) <= max(2, batch_size)
            rows = zip(job.s.split(2), job.x_T.split(2), job.prototype.tolist(), job.image.tolist(), strict=True)
            for s, x_T, which, image in rows:
                seen[which, image] = s
                assert torch.equal(x_T, inverted.x_T[[image, image]])
        assert set(seen) == {(which, image) for which in range(2) for image in range(3)}
        for (which, image), s in seen.items():
            j = [3, 1][which]
            assert torch.equal(s[:, j], values[which])
            others = [k for k in range(4) if k != j]
            assert torch.equal(s[:, others], inverted.s[[image, image]][:, others])

    def test_noise_that_is_too_loud_is_turned_down(self):
        x_T = normal(3, 2, 8, 8) * torch.tensor([0.3, 2.0, 40.0])[:, None, None, None]
        held = no_louder_than_noise(x_T)
        assert torch.equal(held[0], x_T[0])
        assert held[1:].square().mean((1, 2, 3)).tolist() == pytest.approx([1, 1], rel=1e-5)
        assert torch.cosine_similarity(held.flatten(1), x_T.flatten(1)) == pytest.approx(1, abs=1e-5)

    def test_what_the_painter_cannot_paint_would_be_too_loud(self):
        """The rest, 0.5 everywhere, over the √(1-ᾱ) = 0.01 of t = 0 is 50; the second level finds it again."""
        x = images(2) + 0.5 * (-1) ** torch.arange(64).reshape(1, 1, 8, 8)
        model = painter()
        alpha_bar = model.schedule.exact_alpha_bar[249]
        loud = 0.5 / 0.01 + 0.5 * (alpha_bar / (1 - alpha_bar)) ** 0.5
        assert model.invert(x, model.encode(x), 4).square().mean().sqrt() == pytest.approx(loud, rel=1e-3)
        assert invert(model, x, Sampling(4)).x_T.square().mean((1, 2, 3)).tolist() == pytest.approx([1, 1], rel=1e-4)


class TestDecoding:
    def test_the_painter_does_as_it_is_told(self):
        model, x = painter(), images(3)
        s_new = set_activations(model.encode(x), [Change(2, "range", 1.0)], model.activation_low, model.activation_high)
        inverted = invert(model, x, Sampling(5))
        edited = decode(model, inverted.x_T, s_new, Sampling(5))
        unedited = decode(model, inverted.x_T, inverted.s, Sampling(5))
        torch.testing.assert_close(edited, paint(s_new), atol=1e-4, rtol=0)
        torch.testing.assert_close(unedited, x, atol=1e-4, rtol=0)
        torch.testing.assert_close(encode(model, edited), s_new, atol=1e-4, rtol=0)
        torch.testing.assert_close(inverted.s, model.encode(x))

    @pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
    def test_is_inversion_and_decoding(self, tiny_model, sampler):
        x, s_new = torch.rand(2, 1, 16, 16) * 2 - 1, torch.rand(2, 3)
        x_T = no_louder_than_noise(tiny_model.invert(x, tiny_model.encode(x), 4, refine=1))
        sampling = Sampling(4, sampler)
        inverted = invert(tiny_model, x, sampling)
        edited = decode(tiny_model, inverted.x_T, s_new, sampling)
        torch.testing.assert_close(edited, tiny_model.decode(x_T, s_new, 4, sampler))
        unedited = decode(tiny_model, inverted.x_T, inverted.s, sampling)
        torch.testing.assert_close(unedited, tiny_model.decode(x_T, tiny_model.encode(x), 4, sampler))

    def test_dropout_plays_no_part(self, make_model):
        model = make_model(denoiser={"dropout": 0.5}).train()
        x, s_new = torch.rand(2, 1, 16, 16) * 2 - 1, torch.rand(2, 3)
        one, other = (decode(model, invert(model, x, Sampling(2)).x_T, s_new, Sampling(2)) for _ in range(2))
        assert torch.equal(one, other)
        assert model.training


class TestInterpolation:
    def test_interpolation_is_linear_in_s(self):
        model, a, b = painter(), images(2), images(2, seed=1)
        found = interpolate(model, *(invert(model, x, Sampling(4)) for x in (a, b)), 5, Sampling(4))
        assert found.shape == (5, 2, 1, 8, 8)
        for k in range(5):
            torch.testing.assert_close(found[k], torch.lerp(a, b, k / 4), atol=1e-4, rtol=0)

    def test_interpolation_starts_and_ends_at_the_reconstructions(self, tiny_model):
        a, b = torch.rand(2, 2, 1, 16, 16).unbind()
        start, last = (invert(tiny_model, x, Sampling(3)) for x in (a, b))
        found = interpolate(tiny_model, start, last, 3, Sampling(3))
        for inverted, end in ((start, found[0]), (last, found[-1])):
            unedited = decode(tiny_model, inverted.x_T, inverted.s, Sampling(3))
            torch.testing.assert_close(end, unedited, rtol=1e-3, atol=1e-4)

    def test_slerp_keeps_the_norm(self):
        a, b = normal(4, 1, 8, 8), normal(4, 1, 8, 8, seed=1)
        a, b = a / a.flatten(1).norm(dim=1)[:, None, None, None], b / b.flatten(1).norm(dim=1)[:, None, None, None]
        between = slerp(a, b, 0.3)
        assert between.flatten(1).norm(dim=1) == pytest.approx(1, abs=1e-5)
        angle = torch.acos((a * b).flatten(1).sum(1))
        assert torch.acos((a * between).flatten(1).sum(1)) == pytest.approx(0.3 * angle, abs=1e-4)

    def test_slerp_by_hand(self):
        a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]])
        half = slerp(a, b, 0.5)
        assert half[0].tolist() == pytest.approx([math.sqrt(0.5)] * 2)
        assert half[1].tolist() == pytest.approx([1.5, 0.0])  # parallel: linear
