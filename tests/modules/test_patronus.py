"""A model in use: what it computes, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch

from patronus_pl.diffusion import NoiseSource
from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.modules import PatronusModule
from tests.conftest import ModelFactory
from tests.modules.faces import EPSILON, PREDICTIONS, Faces, images, make_trainer

ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def make_silent(make_model: ModelFactory, **arguments: Any) -> PatronusModule:
    """A model whose network says 0."""
    model = make_model(**arguments)
    torch.nn.init.zeros_(model.denoiser.last[2].weight)
    torch.nn.init.zeros_(model.denoiser.last[2].bias)
    return model


def test_hard_activations_are_the_maximum_of_the_map(make_model: ModelFactory) -> None:
    model, x = make_model(prototypes={"temperature": None}), images()
    assert torch.equal(model.encode(x), model.similarity_map(x).amax((-2, -1)))
    assert model.similarity_map(x).shape == (4, 3, *model.encoder.map_size(16, 16))


def test_patch_box_is_inside_the_image(tiny_model: PatronusModule) -> None:
    assert tiny_model.encoder.receptive_field.size == 7
    assert tiny_model.patch_box(0, 1) == (0, 1, 6, 8)
    assert tiny_model.patch_box(5, 5) == (9, 9, 16, 16)


def implied_x_0(kind: dict[str, Any], output: Any, x_t: Any, alpha_bar: Any) -> Any:
    """x_0 as a network means it whose output is ε, v, or x_0 itself beside what is left of it in x_t."""
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    if kind == EPSILON:
        return (x_t - noise * output) / signal
    width = kind.get("init_args", {"skip_width": 0.2})["skip_width"]
    if width is None:
        return signal * x_t - noise * output
    c = width**2 / (width**2 + noise**2 / signal**2)
    return c * x_t / signal + (1 - c) * output


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predicted_noise_is_what_the_network_means(make_model: ModelFactory, kind: dict[str, Any]) -> None:
    model, x_t, t = make_model(prediction=kind), images(), torch.tensor([0, 10, 500, 999])
    s = model.encode(images())
    output = model.denoiser(x_t, t, model.denoiser.embed_condition(model.prototypes.standardised(s))).detach()
    alpha_bar = ALPHA_BAR[t][:, None, None, None]
    x_0 = implied_x_0(kind, output.double().numpy(), x_t.double().numpy(), alpha_bar)
    expected = (x_t.double().numpy() - np.sqrt(alpha_bar) * x_0) / np.sqrt(1 - alpha_bar)
    np.testing.assert_allclose(model.denoise(x_t, t, s).detach(), expected, atol=1e-4)
    np.testing.assert_allclose(model.denoiser_for(s)(x_t, t).detach(), x_0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_there_and_back_again(make_model: ModelFactory, kind: dict[str, Any]) -> None:
    model, x = make_model(prediction=kind, schedule={"timesteps": 200}), images(2)
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


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_loss_of_a_network_that_says_nothing(make_model: ModelFactory, kind: dict[str, Any]) -> None:
    """The mean square of what x_0 it means is off by, times SNR for ε, and SNR + 1 up to the cap for v."""
    model, x_0 = make_silent(make_model, prediction=kind), images()
    draw = model.draw(x_0, 3)
    noise, t = draw.normal((1, 16, 16)).numpy(), draw.timesteps(1000)
    alpha_bar = ALPHA_BAR[t][:, None, None, None]
    x_t = np.sqrt(alpha_bar) * x_0.numpy() + np.sqrt(1 - alpha_bar) * noise
    snr = alpha_bar / (1 - alpha_bar)
    cap = kind.get("init_args", {"weight_cap": 5.0})["weight_cap"] or np.inf
    weight = snr if kind == EPSILON else np.minimum(snr + 1, cap)
    expected = (weight * (implied_x_0(kind, 0.0, x_t, alpha_bar) - x_0.numpy()) ** 2).mean((1, 2, 3))
    found = model.denoising_loss(x_0, model.denoiser_for(torch.zeros(4, 3)), 3).detach()
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_rows_of_all_ranks_take_turns(tiny_model: PatronusModule, monkeypatch: pytest.MonkeyPatch) -> None:
    s = torch.rand(8, 3)
    tiny_model.trainer = make_trainer()
    assert torch.equal(tiny_model.all_ranks(s), s)
    monkeypatch.setattr(type(tiny_model.trainer), "world_size", 2)
    monkeypatch.setattr(tiny_model, "all_gather", lambda _, sync_grads: torch.stack([s[::2], s[1::2]]))
    everyone = tiny_model.all_ranks(s[::2])
    assert torch.equal(everyone, s)
    expected = (s - s.mean(0)) / s.std(0, correction=0)
    torch.testing.assert_close(tiny_model.prototypes.standardised_by_batch(everyone), expected, atol=1e-5, rtol=1e-5)


def test_balance_travels_with_the_checkpoint(make_model: ModelFactory) -> None:
    model = make_model(objective={"decorrelation": {"balance": ["Hair", "Smile"]}})
    saved = model.hparams["objective"]["init_args"]["decorrelation"]["init_args"]
    assert saved["balance"] == ["Hair", "Smile"]


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
        ({"seed": -1}, r"model.seed is -1"),
        ({"warmup_steps": -1}, r"model.warmup_steps is -1; it must not be negative"),
        ({"final_lr": 1.5}, r"model.final_lr is 1.5; it is a share of lr, so choose 0 to 1"),
        ({"lr": 0.0}, r"model.lr is 0.0; it must be positive"),
    ],
)
def test_parts_that_do_not_fit(make_model: ModelFactory, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        make_model(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"objective": {"decorrelation": {"floor": 0.5}}}, r"objective.decorrelation.floor is 0.5"),
        ({"objective": {"decorrelation": {"weight": -0.1}}}, r"objective.decorrelation.weight is -0.1"),
        ({"objective": {"decorrelation": {"balance": ["Hair"]}}}, r"decorrelation.balance is \['Hair'\]; name 2 to 8"),
        ({"prediction": {**EPSILON, "init_args": {"timestep_power": 0.0}}}, r"prediction.timestep_power is 0.0"),
    ],
)
def test_impossible_options_of_parts(make_model: ModelFactory, arguments: dict[str, Any], words: str) -> None:
    """The parser of the configuration may wrap the error, and the command line takes it out again."""
    with pytest.raises((InvalidOptionError, ValueError), match=words):
        make_model(**arguments)


def test_images_of_other_channels(tiny_model: PatronusModule) -> None:
    for function in (tiny_model.encode, tiny_model.similarity_map):
        with pytest.raises(CheckpointError, match=r"trained on images of 1 channel\(s\), but these have 3; use data"):
            function(images(channels=3))


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
