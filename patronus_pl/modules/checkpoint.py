"""Write checkpoints, and read them with errors that say what is wrong."""

import inspect
import pickle
import re
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import lightning
import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import instantiate_module

from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.files import replacing
from patronus_pl.modules.translation import translate

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
Module = TypeVar("Module", bound=pl.LightningModule)


def configuration(module: pl.LightningModule) -> dict[str, Any]:
    """Return the arguments that a module was built from, as plain values, so that its checkpoint can rebuild it.

    Parts (networks, schedules) become `class_path` and `init_args`, as in a YAML; every argument is read from the
    attribute of the same name.
    """
    cls = type(module)
    return {"_class_path": _path(cls), "_instantiator": INSTANTIATOR, **_arguments(module)}


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _arguments(part: Any) -> dict[str, Any]:
    return {name: _plain(getattr(part, name)) for name in inspect.signature(type(part)).parameters}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, dict)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return {"class_path": _path(type(value)), "init_args": _arguments(value)}


def save_module(module: pl.LightningModule, path: str | Path) -> None:
    """Write a checkpoint without training state, as Lightning lays it out; all of it or nothing.

    `load_from_checkpoint` reads it, and so does `--ckpt_path` of validate, test and predict. It holds no optimiser:
    `fit` cannot go on from it.

    Args:
        module: one whose hyper-parameters are its `configuration`.
        path: file to write or to replace.

    Raises:
        OutputError: the file cannot be written.
    """
    checkpoint = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": module.state_dict(),
        "hparams_name": "kwargs",
        "hyper_parameters": dict(module.hparams),
    }
    with replacing(Path(path), "choose another file") as file:
        torch.save(checkpoint, file)


def load_module(cls: type[Module], path: str | Path, **overrides: Any) -> Module:
    """Return the module in a checkpoint, rebuilt from the configuration that the checkpoint carries.

    Args:
        cls: its class.
        path: a checkpoint.
        overrides: constructor arguments that replace those in the file.

    Raises:
        CheckpointError: as `read_checkpoint`; or the checkpoint is one of another class, or does not fit this one.
    """
    checkpoint = read_checkpoint(path)
    arguments = {**checkpoint.get("hyper_parameters", {}), **overrides}
    name = str(arguments.pop("_class_path", _path(cls)))
    arguments.pop("_instantiator", None)
    if name.rsplit(".", 1)[-1] != cls.__name__:
        raise CheckpointError(f"{str(path)!r} is a checkpoint of {name}, not of {cls.__name__}; use another file")
    try:
        module = instantiate_module(cls, arguments)
        module.load_state_dict(checkpoint["state_dict"])
    except (ArgumentError, InvalidOptionError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{str(path)!r} does not fit {cls.__name__} of this version ({error}); train it again"
        ) from error
    return module


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the dictionary in a checkpoint file, without running anything that is in it.

    Raises:
        CheckpointError: no such file, no checkpoint, or as `read_tensors`.
    """
    if not Path(path).is_file():
        raise CheckpointError(
            f"no checkpoint {str(path)!r}; `patronus fit` writes them to runs/<name>/version_<k>/checkpoints/"
        )
    checkpoint = read_tensors(path)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"{str(path)!r} is no Lightning checkpoint; for the authors' files use `patronus import-reference`"
        )
    _refuse_foreign_code(checkpoint, path)
    translate(checkpoint)
    return checkpoint


def _refuse_foreign_code(checkpoint: dict[str, Any], path: str | Path) -> None:
    # The configuration names classes. Looking one up imports its module, which runs that module's code, before it is
    # known whether the class is of the right kind. Only this package and what is imported already may be named.
    for section in ("hyper_parameters", "datamodule_hyper_parameters"):
        for name in _class_paths(checkpoint.get(section), everywhere=section == "hyper_parameters"):
            module = name.rpartition(".")[0]
            if module and module not in sys.modules and not name.startswith("patronus_pl."):
                raise CheckpointError(
                    f"{str(path)!r} names the class {name}, which is not of this package, and is not loaded; if you "
                    f"trust it, import {module} before, in a program that calls patronus_pl.cli.main"
                )


def _class_paths(value: Any, everywhere: bool) -> Iterator[str]:
    """Yield each `class_path`; `everywhere`, also any other dotted name, since one may stand in place of a part."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("class_path", "_class_path") and isinstance(inner, str):
                yield inner
            elif key != "_instantiator":
                yield from _class_paths(inner, everywhere)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _class_paths(inner, everywhere)
    elif everywhere and isinstance(value, str) and re.fullmatch(r"\w+(\.\w+)+", value):
        yield value


def read_tensors(path: str | Path) -> Any:
    """Return what `torch.save` wrote, if it is tensors and plain values alone; nothing in the file is run.

    Raises:
        CheckpointError: the file is truncated, was not written by `torch.save`, or holds more than that.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's parser raises nearly anything, KeyError and AssertionError too, on a bad file
        forbidden = re.search(r"\bGLOBAL (\S+)", str(error))
        if forbidden and isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(
                f"{str(path)!r} holds more than tensors and plain values ({forbidden[1]}) and is not loaded; "
                "use a file with weights alone"
            ) from error
        raise CheckpointError(
            f"{str(path)!r} is truncated or no checkpoint ({type(error).__name__}); copy or train it again"
        ) from error
