"""Whole trainings of a tiny model: where they start, what they log, and what stops them."""

import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from patronus_pl.errors import InvalidOptionError, TrainingDivergedError
from patronus_pl.modules import PatronusModule
from tests.conftest import ModelFactory
from tests.modules.faces import EPSILON, Faces, Tied, images, make_trainer

FIRST_VALIDATION_STEP = 1 << 31


@pytest.mark.parametrize(
    "options",
    [
        {"objective": {"decorrelation": {"weight": 0.02}}},
        {
            "objective": {"distinctness": {"weight": 0.5}},
            "prediction": EPSILON,
            "prototypes": {"standardise": False},
        },
    ],
)
def test_training_learns_and_logs(make_model: ModelFactory, options: dict[str, Any]) -> None:
    model = make_model(lr=3e-3, warmup_steps=1, **options)
    trainer, data = make_trainer(max_epochs=15, check_val_every_n_epoch=15), Faces()
    before = trainer.validate(model, data, verbose=False)[0]["val/loss"]
    trainer.fit(model.train(), data)
    logged = trainer.callback_metrics
    assert trainer.validate(model, data, verbose=False)[0]["val/loss"] < 0.9 * before
    assert {"train/loss", "train/decorrelation", *(f"train/loss_quartile_{i}" for i in range(1, 5))} <= set(logged)
    assert ("train/distinctness" in logged) == ("distinctness" in options["objective"])
    assert all(value.isfinite() for value in logged.values())


def test_without_an_objective_the_denoising_loss_is_all(tiny_model: PatronusModule) -> None:
    trainer = make_trainer(limit_val_batches=0)
    trainer.fit(tiny_model.train(), Faces())
    assert set(trainer.callback_metrics) == {"train/loss", *(f"train/loss_quartile_{i}" for i in range(1, 5))}


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
    (found,) = make_trainer().test(tiny_model, Faces(batch_size=batch_size), verbose=False)
    x = images(16)
    s = tiny_model.encode(x)
    own, other = [], []
    for i, rows in enumerate(torch.arange(16).split(batch_size)):
        before = rows.roll(1) if len(rows) > 1 else rows - 1
        for k, losses in ((rows, own), (before, other)):
            if (k >= 0).all():
                losses += tiny_model.denoising_loss(
                    x[rows], tiny_model.denoiser_for(s[k]), FIRST_VALIDATION_STEP + i
                ).tolist()
    assert (len(own), len(other)) == (16, 16 if batch_size > 1 else 15)
    assert found["test/loss"] == pytest.approx(np.mean(own), rel=1e-4)
    assert found["test/loss_other"] == pytest.approx(np.mean(other), rel=1e-4)


def test_prototypes_start_on_patches_of_the_first_batch(make_model: ModelFactory) -> None:
    model = make_model(lr=1e-12)
    features = torch.nn.functional.normalize(model.encoder(images(16)[:4]), dim=1).detach()
    make_trainer(max_steps=1).fit(model.train(), Faces())
    patches = features.movedim(1, -1).reshape(-1, 16)
    nearest = torch.cdist(model.prototypes.vectors.detach(), patches).min(1).values
    np.testing.assert_allclose(nearest, 0, atol=1e-3)
    s = model.encode(images(16)[:4]).detach()
    torch.testing.assert_close(model.prototypes.mean, s.mean(0), atol=1e-3, rtol=1e-3)


def test_random_prototypes_stay_where_they_are(make_model: ModelFactory) -> None:
    model = make_model(prototypes={"init": "random"}, lr=1e-12)
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


class Shared(Faces):
    """The same batches on any number of devices, each of which takes every other row."""

    def train_dataloader(self) -> Any:
        trainer: Any = self.trainer
        rows = self.rows[trainer.global_rank :: trainer.world_size]
        return torch.utils.data.DataLoader(rows, batch_size=8 // trainer.world_size)


@pytest.mark.slow
def test_two_devices_train_the_model_of_one(make_model: ModelFactory) -> None:
    weights = {"decorrelation": 0.5, "kurtosis": 0.5, "sparsity": 0.5, "faithfulness": 0.01, "looking": 0.1}
    slots = {name: {"weight": weight, "warmup": 0} for name, weight in weights.items()}
    models = []
    for devices in (1, 2):
        model = make_model(lr=1e-3, warmup_steps=1, denoiser={"dropout": 0.0}, objective=slots).train()
        strategy = "ddp_spawn" if devices > 1 else "auto"
        trainer = make_trainer(devices=devices, strategy=strategy, use_distributed_sampler=False, limit_val_batches=0)
        trainer.fit(model, Shared())
        models.append(model)
    torch.testing.assert_close(models[1].prototypes.mean, models[0].prototypes.mean, atol=1e-4, rtol=1e-4)
    x = images()
    with torch.inference_mode():
        s = [model.encode(x) for model in models]
        noise = [model.denoise(x, torch.tensor([0, 10, 500, 999]), s[0]) for model in models]
    torch.testing.assert_close(s[1], s[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(noise[1], noise[0], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("data", "words"),
    [(Tied, "names 'Beard'; the data have the attributes Hat, Hair, Smile"), (Faces, r"names 'Hair'; .* \(none\)")],
)
def test_balance_of_an_attribute_that_the_data_lack(make_model: ModelFactory, data: type[Faces], words: str) -> None:
    model = make_model(objective={"decorrelation": {"balance": ["Hair", "Beard"]}})
    with pytest.raises(InvalidOptionError, match=f"objective.decorrelation.balance {words}"):
        make_trainer().fit(model.train(), data())


def test_a_loss_that_is_no_number_stops_before_the_weights(tiny_model: PatronusModule) -> None:
    with pytest.raises(TrainingDivergedError, match=r"the loss is nan at step 0; .* Lower model.lr .* --ckpt_path"):
        make_trainer().fit(tiny_model.train(), Faces(value=math.nan))
    assert tiny_model.denoiser.first.weight.isfinite().all()
