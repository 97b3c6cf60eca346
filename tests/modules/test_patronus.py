import itertools
import math
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from patronus_pl.modules.revival import Revival
from patronus_pl.modules.taking_back import TakenBack
from torch import Tensor

from patronus_pl.diffusion import NoiseSource
from patronus_pl.errors import CheckpointError, InvalidOptionError, TrainingDivergedError
from patronus_pl.modules import PatronusModule, penalties, revival
from patronus_pl.modules.base import FIRST_VALIDATION_STEP
from tests.conftest import ModelFactory

KINDS: list[dict[str, Any]] = [
    {"prediction": "epsilon", "skip_width": None, "weight_cap": None},
    {"prediction": "v", "skip_width": None, "weight_cap": None},
    {"prediction": "v", "skip_width": 0.2, "weight_cap": 5.0},
]


def images(count: int = 4, channels: int = 1, size: int = 16) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def make_silent(make_model: ModelFactory, **arguments: Any) -> PatronusModule:
    """A model whose network says 0."""
    model = make_model(**arguments)
    torch.nn.init.zeros_(model.denoiser.last[2].weight)
    torch.nn.init.zeros_(model.denoiser.last[2].bias)
    return model


def trainer_of(**attributes: Any) -> Any:
    """As much of a Trainer as a single call needs."""
    defaults = {
        "world_size": 1,
        "global_rank": 0,
        "global_step": 0,
        "accumulate_grad_batches": 1,
        "precision": "32-true",
    }
    return Mock(spec=pl.Trainer, **{**defaults, **attributes})


# -------------------------------------------------------------------------------------------------------- using a model


def test_hard_activations_are_the_maximum_of_the_map(make_model: ModelFactory) -> None:
    model, x = make_model(prototypes={"temperature": None}), images()
    assert torch.equal(model.encode(x), model.similarity_map(x).amax((-2, -1)))
    assert model.similarity_map(x).shape == (4, 3, *model.encoder.map_size(16, 16))


def test_patch_box_is_inside_the_image(tiny_model: PatronusModule) -> None:
    assert tiny_model.receptive_field == 7
    assert tiny_model.patch_box(0, 1) == (0, 1, 6, 8)
    assert tiny_model.patch_box(5, 5) == (9, 9, 16, 16)


def test_denoiser_sees_standardised_activations(tiny_model: PatronusModule) -> None:
    tiny_model.activation_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    tiny_model.activation_std.copy_(torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(
        tiny_model.standardised(torch.tensor([[1.5, 2.0, 1.0]])), torch.tensor([[1.0, 0.0, -1.0]])
    )


def implied_x_0(kind: dict[str, Any], output: Any, x_t: Any, alpha_bar: Any) -> Any:
    """x_0 as a network means it whose output is ε, v, or x_0 itself beside what is left of it in x_t."""
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    if kind["prediction"] == "epsilon":
        return (x_t - noise * output) / signal
    if kind["skip_width"] is None:
        return signal * x_t - noise * output
    c = kind["skip_width"] ** 2 / (kind["skip_width"] ** 2 + noise**2 / signal**2)
    return c * x_t / signal + (1 - c) * output


@pytest.mark.parametrize("kind", KINDS)
def test_predicted_noise_is_what_the_network_means(make_model: ModelFactory, kind: dict[str, Any]) -> None:
    model, x_t, t = make_model(**kind), images(), torch.tensor([0, 10, 500, 999])
    s = model.encode(images())
    output = model.denoiser(x_t, t, model.denoiser.embed_condition(model.standardised(s))).detach()
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t][:, None, None, None]
    x_0 = implied_x_0(kind, output.double().numpy(), x_t.double().numpy(), alpha_bar)
    expected = (x_t.double().numpy() - np.sqrt(alpha_bar) * x_0) / np.sqrt(1 - alpha_bar)
    np.testing.assert_allclose(model.denoise(x_t, t, s).detach(), expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_again(make_model: ModelFactory, kind: dict[str, Any]) -> None:
    model, x = make_model(**kind, schedule={"timesteps": 200}), images(2)
    s = model.encode(x).detach()
    x_T = model.invert(x, s, steps=40, refine=3)
    assert (x_T - x).abs().max() > 0.5
    torch.testing.assert_close(model.decode(x_T, s, steps=40, clip=False), x, atol=5e-3, rtol=0)


@pytest.mark.parametrize("options", [{}, {"sampler": "dpm++"}, {"sampler": "ddpm"}, {"eta": 0.5}])
def test_an_image_is_the_same_in_every_batch(tiny_model: PatronusModule, options: dict[str, Any]) -> None:
    s = tiny_model.encode(images()).detach()
    x_T = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    together = tiny_model.decode(x_T, s, steps=5, noise=NoiseSource(7, range(4)), **options)
    alone = tiny_model.decode(x_T[2:3], s[2:3], steps=5, noise=NoiseSource(7, [2]), **options)
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)
    assert together.abs().max() <= 1


def test_samplers_by_their_names(tiny_model: PatronusModule) -> None:
    s, x_T = tiny_model.encode(images()).detach(), torch.randn(4, 1, 16, 16)
    drawn = {
        name: tiny_model.decode(x_T, s, steps=6, noise=NoiseSource(7, range(4)), **options)
        for name, options in {
            "ddim": {},
            "eta": {"sampler": "ddim", "eta": 1.0},
            "ddpm": {"sampler": "ddpm"},
            "dpm++": {"sampler": "dpm++"},
        }.items()
    }
    assert torch.equal(drawn["ddpm"], drawn["eta"])  # Song et al. 2021, section 4.1
    assert not torch.equal(drawn["ddim"], drawn["dpm++"])
    assert not torch.equal(drawn["ddim"], drawn["ddpm"])


def test_steps_come_one_by_one(tiny_model: PatronusModule) -> None:
    s, x_T = tiny_model.encode(images()).detach(), torch.randn(4, 1, 16, 16)
    with torch.inference_mode():
        steps = list(tiny_model.sample_steps(x_T, s, steps=6))
    assert [step.t for step in steps] == sorted((step.t for step in steps), reverse=True)
    assert len(steps) == 6
    assert torch.equal(steps[-1].x_next, tiny_model.decode(x_T, s, steps=6))


# -------------------------------------------------------------------------------------------------- noise and timesteps


def test_draws_depend_on_seed_and_step_alone(make_model: ModelFactory) -> None:
    x = images()
    first = make_model(seed=5)._draw(x, 17)
    assert all(torch.equal(a, b) for a, b in zip(first, make_model(seed=5)._draw(x + 1, 17), strict=True))
    for other in (make_model(seed=5)._draw(x, 18), make_model(seed=6)._draw(x, 17)):
        assert not torch.equal(first[1], other[1])


def test_ranks_share_the_draw_of_a_single_device(tiny_model: PatronusModule) -> None:
    x = images(6)
    single = tiny_model._draw(x, 3)
    for rank in range(2):
        tiny_model._trainer = trainer_of(world_size=2, global_rank=rank)
        for mine, whole in zip(tiny_model._draw(x[rank::2], 3), single, strict=True):
            assert torch.equal(mine, whole[rank::2])


def test_every_timestep_is_drawn_and_every_batch_covers_all(make_model: ModelFactory) -> None:
    model, x = make_model(schedule={"timesteps": 10}), torch.zeros(5, 1, 16, 16)
    batches = np.array([model._draw(x, step)[0].tolist() for step in range(200)])
    assert set(batches.flatten()) == set(range(10))
    assert (np.sort(batches, 1) // 2 == np.arange(5)).all()  # one in each fifth
    counts = np.bincount(batches.flatten())
    assert abs(counts - 100).max() < 5 * math.sqrt(100 * 0.9)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_distribution_of_timesteps(make_model: ModelFactory, power: float) -> None:
    """Since t < k whenever u^(1/power) < k/T: with probability (k/T)^power."""
    model, x = make_model(timestep_power=power, schedule={"timesteps": 100}), torch.zeros(50, 1, 16, 16)
    t = torch.cat([model._draw(x, step)[0] for step in range(100)]).numpy()
    for k in (1, 10, 50, 90):
        assert (t < k).mean() == pytest.approx((k / 100) ** power, abs=0.01)


# -------------------------------------------------------------------------------------------------------- the objective


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_a_network_that_says_nothing(make_model: ModelFactory, kind: dict[str, Any]) -> None:
    """The mean square of what x_0 it means is off by, times SNR for ε, and SNR + 1 up to the cap for v."""
    model, x_0, t = make_silent(make_model, **kind), images(), torch.tensor([0, 10, 500, 999])
    noise = torch.randn_like(x_0)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t][:, None, None, None]
    x_t = np.sqrt(alpha_bar) * x_0.numpy() + np.sqrt(1 - alpha_bar) * noise.numpy()
    snr = alpha_bar / (1 - alpha_bar)
    weight = snr if kind["prediction"] == "epsilon" else np.minimum(snr + 1, kind["weight_cap"] or np.inf)
    expected = (weight * (implied_x_0(kind, 0.0, x_t, alpha_bar) - x_0.numpy()) ** 2).mean((1, 2, 3))
    found = model._denoising_loss(x_0, t, noise, torch.zeros(4, 3)).detach()
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_training_standardises_by_the_batch_and_remembers(make_model: ModelFactory) -> None:
    model = make_model()
    s = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 1, 5]) + 4
    model._update_statistics(s, momentum=1.0)
    np.testing.assert_allclose(model.activation_mean, s.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.activation_std, s.numpy().std(0), rtol=1e-5)
    condition = model._training_conditions(s)
    torch.testing.assert_close(condition, model.standardised(s), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model._training_conditions(3 * s - 7), condition, atol=1e-4, rtol=1e-4)


def test_the_paper_feeds_activations_as_they_are(make_model: ModelFactory) -> None:
    model, s = make_model(standardise=False), torch.rand(5, 3)
    model._update_statistics(s, momentum=1.0)
    assert torch.equal(model._training_conditions(s), s)
    assert torch.equal(model.standardised(s), s)


def test_statistics_are_those_of_all_ranks(tiny_model: PatronusModule, monkeypatch: pytest.MonkeyPatch) -> None:
    s = torch.rand(8, 3)
    tiny_model._trainer = trainer_of(world_size=2)
    monkeypatch.setattr(tiny_model, "all_gather", lambda _, sync_grads: torch.stack([s[::2], s[1::2]]))
    everyone = tiny_model.all_ranks(s[::2])
    assert torch.equal(everyone, s)
    expected = (s - s.mean(0)) / s.std(0, correction=0)
    torch.testing.assert_close(tiny_model._training_conditions(everyone), expected, atol=1e-5, rtol=1e-5)


def test_a_batch_of_one_has_no_spread(tiny_model: PatronusModule) -> None:
    s = torch.rand(1, 3, requires_grad=True)
    condition = tiny_model._training_conditions(s)
    condition.sum().backward()
    assert not condition.any()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def logged_by_a_step(model: PatronusModule, x: Tensor, step: int) -> dict[str, float]:
    model._trainer = trainer_of(global_step=step)
    model._quartiles = torch.zeros(2, 4)
    model.log = Mock()  # type: ignore[method-assign]
    loss = model.train().training_step({"image": x}, 0)
    logged = {call.args[0]: float(call.args[1]) for call in model.log.call_args_list}
    return {**logged, "total": loss.item()}


def before_and_after(model: PatronusModule, x: Tensor) -> tuple[TakenBack, Tensor, Tensor]:
    """What the first step on these images takes back, and x̂_0 without and with it: of two passes."""
    draw = model.draw(x, model.draw_index(0))
    noise = draw.normal(x.shape[1:])
    t = draw.timesteps(1000, model.timestep_power, descending=True)
    assert t.diff().max() < 0
    s = model.standardised(model.encode(x))
    taken = TakenBack.of(s, s.roll(1, 0), draw)
    assert taken.valid.any()
    k = len(taken.prototype)
    x_t = model.schedule.add_noise(x, noise, t)[:k]
    clean = []
    for condition in (s[:k], taken.condition):
        eps = model.noise_predictor(model.network(condition))(x_t, t[:k])
        clean.append(model.schedule.x_0_from_noise(x_t, eps, t[:k]).double())
    return taken, clean[0], clean[1]


def of_edits_alone(**weights: float) -> dict[str, Any]:
    others = {"sparsity": 0.0, "faithfulness": 0.0, "looking": 0.0, "decorrelation": 0.0, "kurtosis": 0.0}
    return {**others, "edit_warmup": 10, "denoiser": {"dropout": 0.0}, **weights}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_asks_how_much_a_prototype_changes(make_model: ModelFactory, kind: dict[str, Any]) -> None:
    """The logged penalty is that of two passes: with an image's own activations, and with one of another image's."""
    torch.manual_seed(3)
    model, x = make_model(**of_edits_alone(sparsity=0.3), **kind), images(6)
    model._update_statistics(model.encode(x).detach(), momentum=1.0)
    logged = logged_by_a_step(model, x, step=4)
    assert logged["total"] == pytest.approx(logged["train/loss"] + 0.3 * 0.5 * logged["train/sparsity"], rel=1e-4)
    with torch.no_grad():
        taken, before, after = before_and_after(model, x)
        found = (((after - before).square().sum(1) + 1e-4).sqrt().mean((1, 2)) * taken.valid).mean()
    assert logged["train/sparsity"] == pytest.approx(found.item(), rel=0.02)


def test_a_step_asks_whether_the_edit_is_followed(make_model: ModelFactory) -> None:
    """The logged penalty is that of the two pictures read again, and it teaches both the reader and the painter."""
    torch.manual_seed(3)
    model, x = make_model(**of_edits_alone(faithfulness=0.3)), images(6)
    model._update_statistics(model.encode(x).detach(), momentum=1.0)
    logged = logged_by_a_step(model, x, step=4)
    mean, std = model.activation_mean.numpy().copy(), model.activation_std.numpy().copy()
    with torch.no_grad():
        taken, before, after = before_and_after(model, x)
        was, now = ((model.encode(picture.float().clamp(-1, 1)).numpy() - mean) / std for picture in (before, after))
    found = (((now - was - taken.change.numpy()) ** 2).sum(1) * taken.valid.numpy()).mean()
    assert logged["total"] == pytest.approx(logged["train/loss"] + 0.3 * 0.5 * logged["train/faithfulness"], rel=1e-4)
    assert logged["train/faithfulness"] == pytest.approx(found, rel=0.05)

    model.log = Mock()  # type: ignore[method-assign]
    changes = torch.full_like(taken.condition, 3.0).requires_grad_()
    asked = taken._replace(change=changes)
    before, after = (picture.float().requires_grad_() for picture in (before, after))
    similarity = model.similarity_map(x[: len(before)])
    (penalty,) = penalties.of_edits(model, asked, similarity, before, after)
    penalty.value.backward()
    assert changes.grad is None
    assert all(found.grad is not None and found.grad.any() for found in (before, after, model.prototypes.vectors))


def test_a_step_asks_whether_a_prototype_looks_at_what_it_moves(make_model: ModelFactory) -> None:
    """The logged penalty is that of all patches one by one, and it moves the reader's eye, not the picture."""
    torch.manual_seed(3)
    model, x = make_model(**of_edits_alone(looking=0.3)), images(6)
    model._update_statistics(model.encode(x).detach(), momentum=1.0)
    logged = logged_by_a_step(model, x, step=4)
    with torch.no_grad():
        taken, before, after = before_and_after(model, x)
        similarity = model.similarity_map(x[: len(before)])
    field, costs = model.encoder.receptive_field, []
    margin = field.size // 3
    tent = np.convolve(*[np.ones((field.size - 2 * margin + 1) // 2)] * 2)  # of an odd width
    side = len(tent)
    for change, maps, j in zip((after - before).square().sum(1), similarity, taken.prototype, strict=True):
        height, width = change.shape
        weights, effects = [], []
        for row, col in np.ndindex(*maps[j].shape):
            top, left = (field.offset + k * field.jump + margin for k in (row, col))
            rows, cols = (range(k, k + side) for k in (top, left))
            inside = [
                tent[y - top] * tent[x - left] * change[y, x].item()
                for y, x in itertools.product(rows, cols)
                if 0 <= y < height and 0 <= x < width
            ]
            effects.append((sum(inside) / tent.sum() ** 2) ** 0.5)
            weights.append(math.exp(10 * maps[j, row, col].item()))
        share = np.maximum(np.array(effects) / max(*effects, 0.01), 1e-3)
        costs.append(-math.log(np.average(share**10, weights=weights)) / 10)
    assert logged["total"] == pytest.approx(logged["train/loss"] + 0.3 * 0.5 * logged["train/looking"], rel=1e-4)
    assert logged["train/looking"] == pytest.approx((np.array(costs) * taken.valid.numpy()).mean(), rel=0.02)

    pictures = [picture.float().requires_grad_() for picture in (before, after)]
    (penalty,) = penalties.of_edits(model, taken, similarity.requires_grad_(), *pictures)
    penalty.value.backward()
    assert similarity.grad is not None
    assert similarity.grad.any()
    assert all(picture.grad is None for picture in pictures)


def test_without_penalties_on_edits_nothing_is_taken_back(make_model: ModelFactory) -> None:
    rows: list[int] = []
    model = make_model(**of_edits_alone())
    model.denoiser.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    on = {"sparsity": 0.1, "faithfulness": 0.1, "looking": 0.1}
    names = {f"train/{name}" for name in on}
    assert not names & logged_by_a_step(model, images(6), step=4).keys()
    assert rows == [6]
    assert names <= logged_by_a_step(make_model(**on), images(6), step=4).keys()
    assert not names & logged_by_a_step(make_model(**on), images(1), step=4).keys()


@pytest.mark.parametrize(
    ("warmup", "step", "weight"), [(0, 0, 0.3), (100, 0, 0.003), (100, 24, 0.075), (100, 900, 0.3)]
)
def test_kurtosis_grows(make_model: ModelFactory, warmup: int, step: int, weight: float) -> None:
    model = make_model(kurtosis=0.3, kurtosis_warmup=warmup)
    model._trainer = trainer_of(global_step=step)
    weights = {name: weight for name, weight, _ in penalties.of_activations(model, torch.rand(4, 3), {})}
    assert weights["kurtosis"] == pytest.approx(weight)


def test_learning_rate_warms_up_and_decays(make_model: ModelFactory) -> None:
    model = make_model(lr=0.1, warmup_steps=10, final_lr=0.2)
    model._trainer = trainer_of(estimated_stepping_batches=100)
    scheduler: Any = model.configure_optimizers()["lr_scheduler"]["scheduler"]  # type: ignore[call-overload,index]
    rates = []
    for _ in range(101):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    cosine = [0.2 + 0.8 * (1 + math.cos(math.pi * step / 100)) / 2 for step in range(101)]
    np.testing.assert_allclose(rates, [0.1 * min(1, (k + 1) / 10) * cosine[k] for k in range(101)], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------- training


class Faces(pl.LightningDataModule):
    """Sixteen images of noise."""

    def __init__(self, shape: tuple[int, int, int] = (1, 16, 16), value: float = 1.0) -> None:
        super().__init__()
        self.image_shape = shape
        rows = images(16, shape[0], shape[1]) * value
        self.rows = [{"image": row, "id": str(i)} for i, row in enumerate(rows)]

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.rows, batch_size=4)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def make_trainer(**options: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{"max_epochs": 1, "accelerator": "cpu", "num_sanity_val_steps": 0, **quiet, **options})


@pytest.mark.parametrize("options", [{}, {"prediction": "epsilon", "standardise": False, "distinctness": 0.5}])
def test_training_learns_and_logs(make_model: ModelFactory, options: dict[str, Any]) -> None:
    model = make_model(lr=3e-3, warmup_steps=1, **options)
    trainer, data = make_trainer(max_epochs=15, check_val_every_n_epoch=15), Faces()
    before = trainer.validate(model, data, verbose=False)[0]["val/loss"]
    trainer.fit(model.train(), data)
    logged = trainer.callback_metrics
    assert trainer.validate(model, data, verbose=False)[0]["val/loss"] < 0.9 * before
    assert {"train/loss", "train/decorrelation", *(f"train/loss_quartile_{i}" for i in range(1, 5))} <= set(logged)
    assert ("train/distinctness" in logged) == ("distinctness" in options)
    assert all(value.isfinite() for value in logged.values())


def test_idle_prototypes_are_looked_for_in_the_first_half(
    make_model: ModelFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight steps; every other one it is time; from the fourth on it is too late. The first is the start itself."""
    looked: list[tuple[int, int]] = []
    model, vector = make_model(revival=2, lr=1e-12, weight_decay=0.0), torch.tensor([3.0, *[0.0] * 127])

    def find(paint: Any, x_0: Tensor, condition: Tensor, *_: Any) -> Revival:
        looked.append((model.trainer.global_step, len(x_0)))
        assert paint(condition).shape == x_0.shape
        return Revival(1, vector[: model.prototypes.dim])

    monkeypatch.setattr(revival, "find_revival", find)
    trainer = make_trainer(max_epochs=2, limit_val_batches=0)
    trainer.fit(model.train(), Faces())
    assert looked == [(2, 4)]
    assert trainer.callback_metrics["train/revived"] == 1
    direction = model.prototypes.vectors[1].detach() / model.prototypes.vectors[1].norm()
    torch.testing.assert_close(direction, vector[: model.prototypes.dim] / 3)
    assert not model.denoiser.condition_input.weight[:, 1].abs().gt(1e-9).any()


def test_nothing_is_revived_where_it_is_not_asked_for(
    make_model: ModelFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revival, "find_revival", Mock(side_effect=AssertionError))
    make_trainer(max_epochs=2, limit_val_batches=0).fit(make_model(revival=0).train(), Faces())


def test_loss_by_noise_level(make_model: ModelFactory) -> None:
    """A network that says nothing errs by v² = (√ᾱ ε - √(1-ᾱ) x_0)², of mean ᾱ + (1-ᾱ) x_0² over the noise ε."""
    model = make_silent(make_model, lr=1e-12, skip_width=None, weight_cap=None)
    trainer = make_trainer(max_epochs=2, limit_val_batches=0)
    trainer.fit(model.train(), Faces())
    batches = images(16).split(4)
    draws = [model.draw(batches[0], step) for step in range(4, 8)]
    noise = torch.stack([draw.normal((1, 16, 16)) for draw in draws]).square().mean((2, 3, 4)).numpy()
    t = np.stack([draw.timesteps(1000, descending=True) for draw in draws])
    np.testing.assert_array_equal(t // 250, np.tile([3, 2, 1, 0], (4, 1)))  # an image of each batch in every quarter
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    power = torch.stack(batches).square().mean((2, 3, 4)).numpy()
    expected = (alpha_bar * noise + (1 - alpha_bar) * power).mean(0)[::-1]
    found = [trainer.callback_metrics[f"train/loss_quartile_{i}"].item() for i in range(1, 5)]
    np.testing.assert_allclose(found, expected, rtol=0.1)  # means over 4 × 256 pixels of noise
    assert not model._quartiles.any()  # the next epoch starts anew


def test_test_and_predict(tiny_model: PatronusModule) -> None:
    trainer, data = make_trainer(), Faces()
    (metrics,) = trainer.test(tiny_model, data, verbose=False)
    assert set(metrics) == {"test/loss", "test/loss_other"}
    predictions: Any = trainer.predict(tiny_model, data)
    assert [i for batch in predictions for i in batch["id"]] == [str(i) for i in range(16)]
    torch.testing.assert_close(
        torch.cat([batch["activations"] for batch in predictions]), tiny_model.encode(images(16))
    )


@pytest.mark.parametrize("batch_size", [5, 1])  # the last batch of five is one image
def test_every_image_counts_once_and_gets_the_activations_of_another(
    tiny_model: PatronusModule, batch_size: int
) -> None:
    data = Faces()
    data.test_dataloader = lambda: torch.utils.data.DataLoader(data.rows, batch_size)  # type: ignore[assignment]
    (found,) = make_trainer().test(tiny_model, data, verbose=False)
    x = images(16)
    s = tiny_model.encode(x)
    own, other = [], []
    for i, rows in enumerate(torch.arange(16).split(batch_size)):
        t, noise = tiny_model._draw(x[rows], FIRST_VALIDATION_STEP + i)
        before = rows.roll(1) if len(rows) > 1 else rows - 1
        for k, losses in ((rows, own), (before, other)):
            if (k >= 0).all():
                losses += tiny_model._denoising_loss(x[rows], t, noise, tiny_model.standardised(s[k])).tolist()
    assert (len(own), len(other)) == (16, 16 if batch_size > 1 else 15)
    assert found["test/loss"] == pytest.approx(np.mean(own), rel=1e-4)
    assert found["test/loss_other"] == pytest.approx(np.mean(other), rel=1e-4)


def test_prototypes_start_on_patches_of_the_first_batch(make_model: ModelFactory) -> None:
    model = make_model(lr=1e-12, weight_decay=0.0)
    features = (
        torch.nn.functional.normalize(model.encoder(images(16)[:4]), dim=1).detach().movedim(1, -1).reshape(-1, 16)
    )
    make_trainer(max_steps=1).fit(model.train(), Faces())
    nearest = torch.cdist(model.prototypes.vectors.detach(), features).min(1).values
    np.testing.assert_allclose(nearest, 0, atol=1e-3)
    s = model.encode(images(16)[:4]).detach()
    torch.testing.assert_close(model.activation_mean, s.mean(0), atol=1e-3, rtol=1e-3)


def test_random_prototypes_stay_where_they_are(make_model: ModelFactory) -> None:
    model = make_model(init="random", lr=1e-12, weight_decay=0.0)
    before = model.prototypes.vectors.detach().clone()
    make_trainer(max_steps=1).fit(model.train(), Faces())
    torch.testing.assert_close(model.prototypes.vectors, before, atol=1e-6, rtol=0)


class Gradients(pl.Callback):
    """Norm of the gradient at every step."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if grads:
            self.norms.append(torch.stack([grad.norm() for grad in grads]).norm().item())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("clip", [None, 1e-3])
def test_gradients_are_clipped_in_every_precision(
    tiny_model: PatronusModule, precision: Any, clip: float | None
) -> None:
    seen = Gradients()
    make_trainer(precision=precision, gradient_clip_val=clip, callbacks=[seen]).fit(tiny_model.train(), Faces())
    assert len(seen.norms) >= 3
    for norm in seen.norms:
        assert norm == pytest.approx(1e-3, rel=1e-3) if clip else norm > 1e-2


def test_batches_of_one_step_have_noise_of_their_own(
    tiny_model: PatronusModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, steps = tiny_model.draw, []
    monkeypatch.setattr(tiny_model, "draw", lambda x, step: steps.append(step) or draw(x, step))
    make_trainer(accumulate_grad_batches=3, max_epochs=2, limit_val_batches=0).fit(tiny_model.train(), Faces())
    assert len(steps) == len(set(steps)) == 8


class Shared(Faces):
    """The same batches on any number of devices, each of which takes every other row."""

    def train_dataloader(self) -> Any:
        trainer: Any = self.trainer
        rows = self.rows[trainer.global_rank :: trainer.world_size]
        return torch.utils.data.DataLoader(rows, batch_size=8 // trainer.world_size)


@pytest.mark.slow
def test_two_devices_train_the_model_of_one(make_model: ModelFactory) -> None:
    edits = {"sparsity": 0.5, "faithfulness": 0.01, "looking": 0.1, "edit_warmup": 0}
    options = {"decorrelation": 0.5, "kurtosis": 0.5, "kurtosis_warmup": 0, **edits}
    models = []
    for devices in (1, 2):
        model = make_model(lr=1e-3, warmup_steps=1, denoiser={"dropout": 0.0}, **options).train()
        strategy = "ddp_spawn" if devices > 1 else "auto"
        trainer = make_trainer(devices=devices, strategy=strategy, use_distributed_sampler=False, limit_val_batches=0)
        trainer.fit(model, Shared())
        models.append(model)
    torch.testing.assert_close(models[1].activation_mean, models[0].activation_mean, atol=1e-4, rtol=1e-4)
    x = images()
    with torch.inference_mode():
        s = [model.encode(x) for model in models]
        noise = [model.denoise(x, torch.tensor([0, 10, 500, 999]), s[0]) for model in models]
    torch.testing.assert_close(s[1], s[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(noise[1], noise[0], atol=1e-2, rtol=1e-2)


class Tied(Faces):
    """The same with three attributes, of which the last two agree in three quarters of the images."""

    attribute_names = ("Hat", "Hair", "Smile")

    def __init__(self) -> None:
        super().__init__()
        hair = [float(i < 8) for i in range(16)]
        smile = [float(i < 6 or i >= 14) for i in range(16)]
        self.attributes = np.array([[0.0] * 16, hair, smile], dtype=np.float32).T
        for row, attributes in zip(self.rows, self.attributes, strict=True):
            row["attributes"] = torch.from_numpy(attributes)

    def table(self, split: str) -> Any:
        return Mock(attributes=self.attributes)


def test_balance_weighs_the_decorrelation(make_model: ModelFactory) -> None:
    """Cells hold 6, 6, 2 and 2 of 16 images; independent they would hold 4 each. The first batch has hair and smiles.

    The penalty is NumPy's of the first batch that has all, under weights 4/6 and 4/2.
    """
    model, data = make_model(balance=["Smile", "Hair"], lr=1e-12), Tied()
    trainer = make_trainer(max_steps=1)
    trainer.fit(model.train(), data)
    batch = {"image": images(16), "attributes": torch.from_numpy(data.attributes)}
    model._trainer = trainer
    weights = penalties.weights(model, batch)
    assert weights is not None
    agree = data.attributes[:, 1] == data.attributes[:, 2]
    np.testing.assert_allclose(weights, np.where(agree, 4 / 6, 4 / 2), rtol=1e-6)
    two = {"attributes": batch["attributes"][[0, 6]]}
    torch.testing.assert_close(penalties.weights(model, two), torch.tensor([4 / 6, 2.0]))
    with torch.no_grad():
        s = model.prototypes(model.encoder(batch["image"]))
    model.log = Mock()  # type: ignore[method-assign]
    model.training_step(batch, 0)
    (logged,) = [call.args[1] for call in model.log.call_args_list if call.args[0] == "train/decorrelation"]
    covariance = np.cov(s.double().T, aweights=np.where(agree, 4 / 6, 2.0))
    found = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    squared = (found - np.clip(found, model.decorrelation_floor, 0)) ** 2
    assert logged.item() == pytest.approx((squared.sum() - np.trace(squared)) / len(squared), abs=1e-3)


def test_weights_are_those_of_all_ranks(make_model: ModelFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make_model(balance=["Smile", "Hair"]), Tied()
    model._trainer = trainer_of(world_size=2, datamodule=data)
    model.setup("fit")
    gathered: list[Tensor] = []
    monkeypatch.setattr(model, "all_gather", lambda x, sync_grads: gathered.append(x) or torch.stack([x, 10 * x]))
    everyone = penalties.weights(model, {"attributes": torch.from_numpy(data.attributes[5:7])})
    torch.testing.assert_close(gathered[0], torch.tensor([4 / 6, 2.0]))
    torch.testing.assert_close(everyone, torch.tensor([4 / 6, 40 / 6, 2.0, 20.0]))  # rows of the ranks take turns


def test_without_balance_images_weigh_the_same(tiny_model: PatronusModule) -> None:
    assert penalties.weights(tiny_model, {}) is None


def test_balance_travels_with_the_checkpoint(make_model: ModelFactory) -> None:
    assert make_model(balance=["Hair", "Smile"]).hparams["balance"] == ["Hair", "Smile"]


@pytest.mark.parametrize(
    ("data", "words"),
    [(Tied, "names 'Beard'; the attributes of the data are Hat, Hair, Smile"), (Faces, "names 'Hair'; .* are none")],
)
def test_balance_of_an_attribute_that_the_data_lack(make_model: ModelFactory, data: type[Faces], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"model.balance {words}"):
        make_trainer().fit(make_model(balance=["Hair", "Beard"]).train(), data())


def test_a_loss_that_is_no_number_stops_before_the_weights(tiny_model: PatronusModule) -> None:
    with pytest.raises(TrainingDivergedError, match=r"the loss is nan at step 0; .* Lower model.lr .* --ckpt_path"):
        make_trainer().fit(tiny_model.train(), Faces(value=math.nan))
    assert tiny_model.denoiser.first.weight.isfinite().all()


# ---------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_shape": [3, 16, 16]}, r"image_shape\[0\] is 3 but encoder.channels\[0\] is 1; make them equal"),
        ({"denoiser": {"image_channels": 3}}, r"image_shape\[0\] is 1 but denoiser.image_channels is 3"),
        ({"prototypes": {"dim": 5}}, r"encoder.channels\[-1\] is 16 but prototypes.dim is 5"),
        ({"prototypes": {"count": 4}}, r"prototypes.count is 4 but denoiser.condition_dim is 3"),
        ({"count": 0}, r"prototypes.count is 0; it must be greater than 0"),
        ({"size": 4}, r"image of 4x4 pixels is smaller than the encoder's receptive field of 7 pixels"),
        ({"decorrelation_floor": 0.5}, r"model.decorrelation_floor is 0.5; a correlation in \[-1, 0\] is wanted"),
        ({"decorrelation_floor": -1.5}, r"model.decorrelation_floor is -1.5"),
        ({"decorrelation": -0.1}, r"model.decorrelation is -0.1; it must not be negative"),
        ({"seed": -1}, r"model.seed is -1"),
        ({"balance": ["Hair"]}, r"model.balance is \['Hair'\]; name 2 to 8 different attributes"),
        ({"balance": ["Hair", "Hair"]}, r"model.balance is \['Hair', 'Hair'\]; name 2 to 8 different"),
        ({"balance": ["Hair", "Hat"], "decorrelation": 0.0}, r"model.balance .* model.decorrelation is 0; raise it"),
        ({"timestep_power": 0.0}, r"model.timestep_power is 0.0"),
        ({"lr": 0.0}, r"model.lr 0.0; both must be positive"),
    ],
)
def test_parts_that_do_not_fit(make_model: ModelFactory, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        make_model(**arguments)


def test_images_of_other_channels(tiny_model: PatronusModule) -> None:
    for call in (tiny_model.encode, tiny_model.similarity_map):
        with pytest.raises(CheckpointError, match=r"trained on images of 1 channel\(s\), but these have 3; use data"):
            call(images(channels=3))


def test_images_below_the_smallest(tiny_model: PatronusModule) -> None:
    with pytest.raises(InvalidOptionError, match="image of 4x4 pixels is smaller"):
        tiny_model.encode(images(size=4))


def test_data_of_another_shape(tiny_model: PatronusModule) -> None:
    with pytest.raises(
        CheckpointError, match=r"takes images of shape \(1, 16, 16\), the data have \(1, 32, 32\); make"
    ):
        make_trainer().fit(tiny_model.train(), Faces((1, 32, 32)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 1001}, r"steps is 1001; .* choose 1..1000"),
        ({"sampler": "ddpm"}, r"sampler ddpm is random; pass noise=NoiseSource"),
        ({"eta": 0.5}, r"eta is 0.5 but there is no noise"),
    ],
)
def test_wrong_ways_to_sample(tiny_model: PatronusModule, options: dict[str, Any], words: str) -> None:
    s = tiny_model.encode(images()).detach()
    with pytest.raises(InvalidOptionError, match=words):
        tiny_model.decode(images(), s, **options)


def test_more_steps_than_timesteps_to_invert(tiny_model: PatronusModule) -> None:
    s = tiny_model.encode(images()).detach()
    with pytest.raises(InvalidOptionError, match="steps is 2000"):
        tiny_model.invert(images(), s, steps=2000)
