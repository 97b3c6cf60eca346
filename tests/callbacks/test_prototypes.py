"""Ranges and health of prototypes against NumPy, on activations of the averaged weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from patronus_pl.callbacks import EMA, Checkpoint, PrototypeStatistics
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from tests.callbacks.runs import faces, fresh, trainer


def run(folder: Path, statistics: PrototypeStatistics, **options: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """The checkpoint and the logged numbers of four steps."""
    once = trainer(folder, statistics, Checkpoint(), EMA(), enable_checkpointing=True)
    once.fit(fresh(**options), faces())
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint, {name: float(value) for name, value in once.callback_metrics.items()}


def activations(folder: Path, count: int) -> np.ndarray:
    """Of the first training images, by the model that was saved: that with the averaged weights."""
    model = PatronusModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")
    with torch.inference_mode():
        return model.encode(as_floats(faces().table("train").__getitems__(range(count))["image"])).numpy()


@pytest.mark.parametrize(("images", "seen"), [(6, 6), (100, 8)])
def test_ranges_and_standardisation_are_those_of_the_average(tmp_path: Path, images: int, seen: int) -> None:
    checkpoint, _ = run(tmp_path, PrototypeStatistics(images, batch_size=4))
    s, saved = activations(tmp_path, seen), checkpoint["state_dict"]
    expected = {
        "mean": s.mean(0),
        "std": s.std(0),
        "low": np.quantile(s, 0.02, axis=0),
        "high": np.quantile(s, 0.98, axis=0),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(saved[f"prototypes.{name}"], value, rtol=1e-4, atol=1e-5, err_msg=name)
    for name in ("low", "high"):  # the raw weights have the ranges too, or the next steps would average them away
        assert torch.equal(checkpoint["current_model_state"][f"prototypes.{name}"], saved[f"prototypes.{name}"])


def test_raw_activations_are_not_standardised(tmp_path: Path) -> None:
    checkpoint, _ = run(tmp_path, PrototypeStatistics(), prototypes={"standardise": False})
    assert (checkpoint["state_dict"]["prototypes.mean"] == 0).all()
    assert (checkpoint["state_dict"]["prototypes.std"] == 1).all()


def test_the_census_is_logged(tmp_path: Path) -> None:
    _, logged = run(tmp_path, PrototypeStatistics())
    correlation = np.corrcoef(activations(tmp_path, 8).T)
    shares = np.linalg.eigvalsh(correlation) / 3
    assert logged["prototypes/effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    mean = np.abs(correlation[np.triu_indices(3, 1)]).mean()
    assert logged["prototypes/mean_abs_correlation"] == pytest.approx(mean, rel=1e-3)
    assert (logged["prototypes/dead"], logged["prototypes/prototypes"]) == (0, 3)


def test_other_modules_are_left_alone(tmp_path: Path) -> None:
    once = trainer(tmp_path, PrototypeStatistics(), max_steps=1)
    once.fit(BoringModel(), BoringDataModule())
    assert not any(name.startswith("prototypes") for name in once.callback_metrics)
