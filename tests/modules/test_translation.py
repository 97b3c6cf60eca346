"""Checkpoints of version 0.1, written by its own code, and what that code computed with them.

The folder holds a model of 2 steps with its averages and its optimiser (`model.ckpt`), a model of the paper's kind
(`epsilon.ckpt`), a prior (`prior.ckpt`), and `expected.npz`; `rest_*` is what the model computes after 2 more steps.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from patronus_pl.cli import main
from patronus_pl.diffusion import Epsilon, Velocity
from patronus_pl.modules import LatentPrior, PatronusModule

OLD = Path(__file__).parents[1] / "fixtures" / "version_0_1"


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    with np.load(OLD / "expected.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def assert_computes(model: PatronusModule, expected: dict[str, Tensor], name: str, tolerance: float) -> None:
    close = {"atol": tolerance, "rtol": tolerance}
    with torch.inference_mode():
        s = model.encode(expected["x"])
        noise = model.denoise(expected["noise"], expected["t"], expected[f"{name}_s"])
        decoded = model.decode(expected["noise"], expected[f"{name}_s"], steps=10)
    torch.testing.assert_close(s, expected[f"{name}_s"], **close)
    torch.testing.assert_close(noise, expected[f"{name}_eps"], **close)
    torch.testing.assert_close(decoded, expected[f"{name}_decoded"], **close)


@pytest.mark.parametrize("name", ["model", "epsilon"])
def test_a_model_computes_what_it_did(expected: dict[str, Tensor], name: str) -> None:
    model = PatronusModule.load_from_checkpoint(OLD / f"{name}.ckpt")
    assert_computes(model, expected, name, 1e-5)
    for part in ("low", "high", "mean", "std"):
        assert torch.equal(getattr(model.prototypes, part), expected[f"{name}_{part}"])
    assert torch.equal(model.activation_low, expected[f"{name}_low"])
    assert torch.equal(model.activation_high, expected[f"{name}_high"])


def test_a_prior_draws_what_it_did(expected: dict[str, Tensor]) -> None:
    prior = LatentPrior.load_from_checkpoint(OLD / "prior.ckpt")
    torch.testing.assert_close(prior.sample(5, seed=3, steps=20), expected["prior_sample"], atol=1e-5, rtol=1e-5)
    assert isinstance(prior.prediction, Velocity)
    assert (prior.prediction.timestep_power, prior.prediction.skip_width, prior.prediction.weight_cap) == (
        0.5,
        None,
        None,
    )
    assert (prior.lr, prior.weight_decay) == (0.01, 0.0)


def test_options_keep_their_values() -> None:
    model = PatronusModule.load_from_checkpoint(OLD / "model.ckpt")
    assert isinstance(model.prediction, Velocity)
    assert vars(model.prediction) == {"timestep_power": 1.5, "skip_width": 0.06, "weight_cap": 4.0}
    assert (model.prototypes.init, model.prototypes.standardise, model.prototypes.temperature) == ("patches", True, 5.0)
    assert (model.lr, model.warmup_steps, model.seed) == (0.01, 1, 0)
    assert model.objective is not None
    slots = vars(model.objective)
    weights = {"decorrelation": 0.03, "kurtosis": 0.04, "sparsity": 0.1, "faithfulness": 0.02, "looking": 0.15}
    assert {name: slot.weight for name, slot in slots.items()} == {**weights, "distinctness": 0.05}
    warmups = {"decorrelation": 0, "kurtosis": 9, "sparsity": 7, "faithfulness": 7, "looking": 7, "distinctness": 0}
    assert {name: slot.warmup for name, slot in slots.items()} == warmups
    assert (model.objective.decorrelation.floor, model.objective.distinctness.margin) == (-0.3, 0.5)
    assert model.objective.decorrelation.balance == ["Smiling", "Eyeglasses"]


def test_a_model_of_the_papers_kind_keeps_its_options() -> None:
    model = PatronusModule.load_from_checkpoint(OLD / "epsilon.ckpt")
    assert isinstance(model.prediction, Epsilon)
    assert (model.prototypes.init, model.prototypes.standardise) == ("random", False)


def test_training_goes_on_from_it(expected: dict[str, Tensor], tmp_path: Path) -> None:
    """Two steps more, with the optimiser and the averages of the checkpoint, end where the old code did."""
    main(
        [
            "fit",
            "--config",
            str(OLD / "rest.yaml"),
            f"--ckpt_path={OLD / 'model.ckpt'}",
            f"--trainer.logger.init_args.save_dir={tmp_path}",
        ]
    )
    last = next(tmp_path.rglob("last.ckpt"))
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert_computes(PatronusModule.load_from_checkpoint(last), expected, "rest", 1e-3)
