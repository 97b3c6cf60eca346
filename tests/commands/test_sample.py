"""`--balance`: a model whose activations are known to tell of attributes, and which of them are drawn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from patronus_pl.analysis.editing.decoding import decode_from_noise
from patronus_pl.commands import sample as module
from patronus_pl.commands.sample import sample
from patronus_pl.data import PlantedFaces
from patronus_pl.data.planted_faces import ATTRIBUTES
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.modules.checkpoint import save_module
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
