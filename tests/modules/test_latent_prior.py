from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from patronus_pl.callbacks import EMA
from patronus_pl.data import Activations
from patronus_pl.denoiser import VectorNet
from patronus_pl.diffusion import NoiseSchedule, NoiseSource, Velocity
from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.modules import LatentPrior, PatronusModule
from patronus_pl.modules.checkpoint import configuration, save_module

MODES = np.array([[-1.0, 2.0, 5.0], [1.0, 3.0, 5.0]])
SHARE, SPREAD = 0.3, 0.15


def make_prior(size: int = 3, **options: Any) -> LatentPrior:
    torch.manual_seed(0)
    return LatentPrior(
        VectorNet(size, width=64, blocks=1), NoiseSchedule(100, beta_start=1e-3, beta_end=0.2), **options
    )


def lively(prior: LatentPrior) -> LatentPrior:
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return prior.eval()


def make_trainer(steps: int, folder: Path, **options: object) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, default_root_dir=folder, **{"enable_checkpointing": False, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Activations:
    """Two modes of unequal weight; the third activation is constant."""
    rng = np.random.default_rng(0)
    mode = (rng.random(6000) > SHARE).astype(int)
    s = MODES[mode] + SPREAD * rng.normal(size=(6000, 3)) * [1, 1, 0]
    path = tmp_path_factory.mktemp("data") / "activations.npz"
    np.savez(path, activations=s.astype(np.float32))
    return Activations(str(path), batch_size=512)


@pytest.fixture(scope="module")
def trained(data: Activations, tmp_path_factory: pytest.TempPathFactory) -> LatentPrior:
    pl.seed_everything(0, verbose=False)
    prior = make_prior(lr=5e-3)
    make_trainer(700, tmp_path_factory.mktemp("run"), callbacks=[EMA(0.98)], limit_val_batches=0).fit(
        prior, datamodule=data
    )
    return prior.eval()


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 50), ("ddpm", 100), ("dpm++", 50)])
def test_modes_get_their_share_and_their_spread(trained: LatentPrior, sampler: str, steps: int) -> None:
    """Noise added where the predicted noise belongs would give the lesser mode a fifth, and it a spread of 0.095."""
    s = trained.sample(2000, seed=0, steps=steps, sampler=sampler).numpy()
    lesser = s[:, 0] < 0
    assert lesser.mean() == pytest.approx(SHARE, abs=0.04)
    for mode, rows in enumerate((lesser, ~lesser)):
        np.testing.assert_allclose(np.median(s[rows], axis=0), MODES[mode], atol=0.04)
        spread = np.diff(np.quantile(s[rows][:, :2], [0.1587, 0.8413], axis=0), axis=0)[0] / 2
        np.testing.assert_allclose(spread, SPREAD, rtol=0.2)
    distance = np.abs(s[:, None, :2] - MODES[:, :2]).max(axis=2).min(axis=1)
    assert (distance < 5 * SPREAD).mean() > 0.98


def test_statistics_of_the_training_rows_bound_the_samples(trained: LatentPrior, data: Activations) -> None:
    s = data.tables["train"].activations
    np.testing.assert_allclose(trained.mean, s.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(trained.std[:2], s.std(axis=0)[:2], rtol=1e-4)
    np.testing.assert_array_equal(trained.low, s.min(axis=0))
    np.testing.assert_array_equal(trained.high, s.max(axis=0))
    drawn = lively(make_prior())
    drawn.load_state_dict({**drawn.state_dict(), **{k: v for k, v in trained.state_dict().items() if "." not in k}})
    wild = drawn.sample(500, seed=0).numpy()
    assert (wild >= s.min(axis=0)).all()
    assert (wild <= s.max(axis=0)).all()
    assert (wild[:, 0] == s[:, 0].max()).any()
    assert np.ptp(wild[:, 2]) == 0


def test_samples_depend_on_seed_and_number_alone(trained: LatentPrior) -> None:
    for sampler in ("ddim", "ddpm"):
        many, few = trained.sample(7, 3, 10, sampler), trained.sample(4, 3, 10, sampler)
        torch.testing.assert_close(many[:4], few, rtol=1e-4, atol=1e-4)
        assert (trained.sample(4, 4, 10, sampler) - few).abs().max() > 0.01


def test_samples_share_no_noise_with_the_images_drawn_from_them() -> None:
    """An untrained network predicts v = 0, which makes a sample a multiple of its noise."""
    prior = make_prior(8)
    prior.low.fill_(-100)
    prior.high.fill_(100)
    s, x_T = prior.sample(300, seed=0).numpy(), NoiseSource(0, range(300))((300, 8)).numpy()
    correlation = np.corrcoef(s.T, x_T.T)[:8, 8:]
    assert np.abs(correlation).max() < 0.25
    assert np.abs(np.corrcoef(s.T) - np.eye(8)).max() < 0.25


def test_loss_is_one_at_the_start_and_falls(data: Activations, trained: LatentPrior) -> None:
    """E v² = ᾱ + (1 - ᾱ) = 1 for standardised data, and the network starts at v = 0."""
    data.setup()
    fresh = make_prior(seed=1)
    fresh.load_state_dict({**fresh.state_dict(), **{k: v for k, v in trained.state_dict().items() if "." not in k}})
    batch = data.tables["val"].__getitems__(range(500))
    with torch.inference_mode():
        start, end = fresh.eval().predict_step(batch, 0), trained.predict_step(batch, 0)
    assert start["id"] == batch["id"]
    # The constant activation has no data, only noise: v² = ᾱ ε².
    alpha_bar = float(fresh.schedule.alpha_bar.mean())
    assert float(start["loss"].mean()) == pytest.approx((2 + alpha_bar) / 3, abs=0.05)
    assert float(end["loss"].mean()) < 0.75 * float(start["loss"].mean())


def test_a_resumed_run_keeps_the_statistics_it_began_with(data: Activations, tmp_path: Path) -> None:
    trainer = make_trainer(2, tmp_path, callbacks=[EMA(0.9)])
    trainer.fit(make_prior(), datamodule=data)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    np.savez(tmp_path / "other.npz", activations=np.random.default_rng(1).random((600, 3), dtype=np.float32))
    prior = make_prior()
    other = Activations(str(tmp_path / "other.npz"))
    make_trainer(4, tmp_path, callbacks=[EMA(0.9)]).fit(prior, datamodule=other, ckpt_path=tmp_path / "half.ckpt")
    np.testing.assert_allclose(prior.mean, data.tables["train"].activations.mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(prior.high, data.tables["train"].activations.max(axis=0))


def test_checkpoint_brings_everything_back(trained: LatentPrior, tmp_path: Path) -> None:
    save_module(trained, tmp_path / "prior.ckpt")
    again = LatentPrior.load_from_checkpoint(tmp_path / "prior.ckpt")
    assert not again.training
    assert (again.lr, again.network.width, again.schedule.beta_end) == (5e-3, 64, 0.2)
    assert torch.equal(again.sample(5, 0, 5), trained.sample(5, 0, 5))
    with pytest.raises(CheckpointError, match=r"is a checkpoint of .*LatentPrior, not of PatronusModule"):
        PatronusModule.load_from_checkpoint(tmp_path / "prior.ckpt")


def test_data_that_do_not_fit(data: Activations, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="takes 4 activations, the data have 3"):
        make_trainer(1, tmp_path).fit(make_prior(4), datamodule=data)
    with pytest.raises(InvalidOptionError, match=r"patronus_pl.data.Activations"):
        make_trainer(1, tmp_path).fit(make_prior(), data.train_dataloader(), data.val_dataloader())


@pytest.mark.parametrize(("name", "value"), [("lr", 0.0), ("weight_decay", -1.0), ("seed", -1)])
def test_impossible_options(name: str, value: float) -> None:
    with pytest.raises(InvalidOptionError, match=f"model.{name} is {value}"):
        make_prior(**{name: value})


def test_configuration_says_all() -> None:
    options = {"lr": 0.1, "weight_decay": 0.2, "warmup_steps": 7, "final_lr": 0.5, "seed": 11}
    found = configuration(make_prior(**options, prediction=Velocity(0.1, 3.0, timestep_power=0.5)))
    assert {**found, **options} == found
    assert found["prediction"]["init_args"] == {"skip_width": 0.1, "weight_cap": 3.0, "timestep_power": 0.5}
