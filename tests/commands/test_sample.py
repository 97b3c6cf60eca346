"""What images are drawn from: activations of known attributes, balanced or not, nothing at all, and guidance."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from patronus_pl.analysis.editing.decoding import decode_from_noise
from patronus_pl.commands import sample as module
from patronus_pl.commands.sample import sample
from patronus_pl.data import PlantedFaces
from patronus_pl.data.planted_attributes import ATTRIBUTES
from patronus_pl.diffusion import NoiseSource
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.modules.checkpoint import save_module
from patronus_pl.pixels import as_bytes
from tests.conftest import ModelFactory

PAIR = ("Large_Head", "Bright_Background")


def faces() -> PlantedFaces:
    """Faces of a planted tie."""
    return PlantedFaces(image_size=16, train_size=600, val_size=2, test_size=2, correlation={",".join(PAIR): 0.75})


def truth() -> NDArray[np.float32]:
    """The two attributes of the training images."""
    return faces().table("train").attributes[:, [ATTRIBUTES.index(name) for name in PAIR]]


@pytest.fixture
def ckpt(make_model: ModelFactory, tmp_path: Path) -> str:
    """A model of three prototypes that has learned nothing."""
    save_module(make_model(channels=3), tmp_path / "model.ckpt")
    return str(tmp_path / "model.ckpt")


@pytest.fixture
def activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float32]:
    """What the encoder is made to say of the training images: mixtures of the attributes; also in the file s.npz."""
    noise = 0.1 * np.random.default_rng(0).normal(size=(600, 3))
    s = (truth() @ [[1, 0.4, 0], [0.3, 1, 0]] + noise).astype(np.float32)
    np.savez(tmp_path / "s.npz", activations=s)
    monkeypatch.setattr(module, "encode", lambda model, images: torch.from_numpy(s))
    return s


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The activations that images are drawn from."""
    seen: list[torch.Tensor] = []

    def spy(model: PatronusModule, s: torch.Tensor, *rest: Any) -> Iterator[torch.Tensor]:
        seen.append(s)
        return decode_from_noise(model, s, *rest)

    monkeypatch.setattr(module, "decode_from_noise", spy)
    return seen


def phi(attributes: NDArray[np.float32]) -> float:
    return float(np.corrcoef(attributes.T)[0, 1])


def test_balanced_images(
    ckpt: str,
    activations: NDArray[np.float32],
    drawn: list[torch.Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Candidates are activations of real images, so that the truth behind each is known."""
    options: dict[str, Any] = {"from_": str(tmp_path / "s.npz"), "n": 60, "steps": 2, "data": faces()}
    for balance in (None, "Large_Head, Bright_Background"):
        sample(ckpt, str(tmp_path / str(balance)), balance=balance, **options)
        assert len(list((tmp_path / str(balance)).glob("0*.png"))) == 60
    found = [truth()[(activations[None] == s.numpy()[:, None]).all(-1).argmax(1)] for s in drawn]
    assert phi(truth()) == pytest.approx(0.75, abs=0.05)
    assert phi(found[0]) > 0.55
    assert abs(phi(found[1])) < 0.05
    np.testing.assert_allclose(found[1].mean(0), truth().mean(0), atol=0.05)
    said = capsys.readouterr().out
    assert "read by a probe (AUROC Large_Head " in said
    assert "in 960 candidates, 0.0" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"balance": "Wearing_Red"}, "--balance is 'Wearing_Red' .* give different attributes"),
        ({"balance": "Smiling,Smiling"}, "--balance is 'Smiling,Smiling'"),
        ({"balance": "Smiling,Wearing_Red", "candidates": 0}, "--candidates 0; .* at least 1 candidate"),
        ({"balance": "Smiling,Beard"}, "there is no attribute 'Beard'; the data have Black_Hair"),
        (
            {"balance": "Black_Hair,Blond_Hair"},
            "of 64 candidates none shows .* so that Black_Hair, Blond_Hair cannot be",
        ),
    ],
)
def test_what_cannot_be_balanced(
    ckpt: str, activations: NDArray[np.float32], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        sample(ckpt, str(tmp_path / "out"), from_=str(tmp_path / "s.npz"), n=4, data=faces(), **options)
    assert not (tmp_path / "out").exists()


MASKED: dict[str, Any] = {"masks": {"share": 0.5}, "denoiser": {"maskable": True}}


def pictures(folder: Path) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("0*.png"))])


@pytest.fixture
def masked(make_model: ModelFactory, tmp_path: Path) -> str:
    """The same model, as if it had been trained with masks."""
    save_module(make_model(channels=3, **MASKED), tmp_path / "masked.ckpt")
    return str(tmp_path / "masked.ckpt")


def test_images_without_activations(masked: str, tmp_path: Path) -> None:
    """The denoiser is told nothing: the activations that it is given beside that do not matter."""
    sample(masked, str(tmp_path / "a"), n=3, steps=2, precision="32")
    sample(masked, str(tmp_path / "b"), n=2, steps=2, batch_size=1, precision="32")
    model = PatronusModule.load_from_checkpoint(masked)
    x_T = NoiseSource(0, range(3))((3, 3, 16, 16))
    expected = as_bytes(model.decode(x_T, torch.rand(3, 3), 2, "dpm++", keep=torch.zeros(3, 3, dtype=torch.bool)))
    found = pictures(tmp_path / "a").astype(int)
    assert np.abs(found - expected.movedim(1, -1).numpy()).max() <= 1
    assert np.abs(found[:2] - pictures(tmp_path / "b")).max() <= 1


def test_guided_samples(masked: str, tmp_path: Path) -> None:
    """D + w (D(s) - D): 1 is D(s), and 0 the denoiser that is told nothing."""
    s = np.random.default_rng(0).uniform(-2, 2, (1, 3)).astype(np.float32)
    np.savez(tmp_path / "s.npz", activations=s.repeat(20, 0))
    told: dict[str, Any] = {"from_": str(tmp_path / "s.npz"), "n": 2, "steps": 2, "precision": "32"}
    for w in (0.0, 1.0, 3.0):
        sample(masked, str(tmp_path / f"{w:g}"), guidance=w, **told)
    sample(masked, str(tmp_path / "none"), n=2, steps=2, precision="32")
    assert np.array_equal(pictures(tmp_path / "0"), pictures(tmp_path / "none"))
    model, x_T = PatronusModule.load_from_checkpoint(masked), NoiseSource(0, range(2))((2, 3, 16, 16))
    for w, guidance in (("1", None), ("3", 3.0)):
        x = model.decode(x_T, torch.from_numpy(s).repeat(2, 1), 2, "dpm++", guidance=guidance)
        assert np.abs(pictures(tmp_path / w).astype(int) - as_bytes(x).movedim(1, -1).numpy()).max() <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "trained without masks and cannot draw images without activations; give --prior PRIOR_CKPT or --from"),
        ({"from_": "s.npz", "guidance": 2.0}, "--guidance is 2, but the checkpoint was trained without masks"),
        ({"from_": "s.npz", "prior": "runs/prior"}, "give one of the two"),
        ({"balance": "Smiling,Wearing_Red"}, "--balance and --guidance need activations; give --prior"),
        ({"guidance": 2.0}, "--balance and --guidance need activations"),
        ({"from_": "s.npz", "guidance": float("nan")}, "--guidance is nan; give a number between -100 and 100"),
        ({"from_": "s.npz", "guidance": 1e6}, "--guidance is 1000000.0; give a number"),
    ],
)
def test_what_the_denoiser_cannot_be_told(ckpt: str, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        sample(ckpt, str(tmp_path / "out"), n=2, steps=2, **options)
    assert not (tmp_path / "out").exists()
