"""Shared arguments are handed on by keyword, and yet stay in `--help`, are checked, and reach the checkpoint."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from patronus_pl.data import ImageDataModule, ImageFolder

SHARED = ("image_size", "batch_size", "num_workers", "seed", "limit", "bias")
FILES = ("split_by", "white", "cache_dir", "max_unreadable", "in_memory_mb", "crop")
OWN = {
    "PlantedFaces": ("train_size", "correlation", "rarity", "style", "photographic"),
    "FashionMNIST": ("root", "download"),
    "CIFAR10": ("root", "download"),
    "CelebA": ("root", *FILES),
    "FFHQ": ("root", "attributes_file", "val_fraction", *FILES),
    "CheXpert": ("root", "uncertain", "age_threshold", *FILES),
    "ImageFolder": ("root", "channels", "attributes_file", "group_column", *FILES),
}


def parser() -> ArgumentParser:
    made = ArgumentParser(exit_on_error=False)
    made.add_subclass_arguments(ImageDataModule, "data")
    return made


@pytest.mark.parametrize("name", OWN)
def test_help_shows_every_argument(name: str) -> None:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        parser().parse_args([f"--data.help=patronus_pl.data.{name}"])
    for option in (*SHARED, *OWN[name]):
        assert f"--data.init_args.{option}" in shown.getvalue() or f"--data.{option}" in shown.getvalue()
    assert "images per step and device" in shown.getvalue()
    assert (name in ("CelebA", "FFHQ", "CheXpert", "FashionMNIST", "CIFAR10", "PlantedFaces")) == (
        ".channels" not in shown.getvalue()
    )
    assert (name == "PlantedFaces") == (".root" not in shown.getvalue())


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("CelebA", "batch_size", "many"), ("ImageFolder", "split_by", "luck"), ("PlantedFaces", "limit", "[1]"),
     ("FFHQ", "in_memory_mb", "a lot"), ("CheXpert", "crop", "left"), ("CIFAR10", "colour", "1"),
     ("PlantedFaces", "style", "oil"),
     ("PlantedFaces", "rarity", "rare"), ("PlantedFaces", "photographic", "somewhat")],
)  # fmt: skip
def test_a_wrong_type_or_name_is_refused(name: str, option: str, value: str) -> None:
    with pytest.raises(ArgumentError, match=option):
        parser().parse_args([f"--data=patronus_pl.data.{name}", f"--data.{option}={value}", "--data.root=x"])


BUILD = """
import json, sys
import patronus_pl.data
bias = patronus_pl.data.BiasedSubset({"A,B": 0.5})
kept = {}
for name in sys.argv[1:]:
    root = {} if name == "PlantedFaces" else {"root": "/nowhere"}
    kept[name] = dict(getattr(patronus_pl.data, name)(seed=7, batch_size=3, bias=bias, **root).hparams)
print(json.dumps(kept))
"""


def test_the_checkpoint_keeps_every_argument() -> None:
    # In a process of its own: the type checks under pytest wrap each constructor, and Lightning reads their frames.
    run = subprocess.run([sys.executable, "-c", BUILD, *OWN], capture_output=True, text=True, check=True)
    for name, kept in json.loads(run.stdout).items():
        assert {*SHARED, *OWN[name]} <= set(kept), name
        assert (kept["seed"], kept["batch_size"]) == (7, 3)
        assert kept["bias"] == {"pairs": {"A,B": 0.5}, "rule": None, "seed": 0}


def test_the_checkpoint_keeps_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = ImageFolder("photos", cache_dir="cache")
    assert (data.hparams["root"], data.hparams["cache_dir"]) == (f"{tmp_path}/photos", f"{tmp_path}/cache")
    with pytest.raises(Exception, match=f"no folder 'photos' in {tmp_path}; set data.root"):
        data.setup()
