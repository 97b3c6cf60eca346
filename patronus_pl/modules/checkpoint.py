"""Reading checkpoints, with errors that say what is wrong."""

import inspect
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from patronus_pl.errors import CheckpointError

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


def configuration(module: pl.LightningModule) -> dict[str, Any]:
    """The arguments a module was built from, as plain values: its checkpoint rebuilds it, however it was made.

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
    if isinstance(value, nn.Module):
        return {"class_path": _path(type(value)), "init_args": _arguments(value)}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_checkpoint(path: str) -> dict[str, Any]:
    """The dictionary in a checkpoint file, without running anything that is in it.

    Raises:
        CheckpointError: no such file, not a checkpoint, truncated, or one that holds more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint {path!r}; `patronus fit` writes them to runs/<name>/version_<k>/checkpoints/")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path!r} holds more than tensors and plain values and is not loaded: {error}") from error
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise CheckpointError(f"{path!r} is truncated or no checkpoint ({error}); copy or train it again") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path!r} is no Lightning checkpoint; for the authors' files use `patronus import-reference`")
    return checkpoint


def require_checkpoint_of(cls: type[pl.LightningModule], path: str) -> None:
    """Refuse a file that is no checkpoint of `cls`, or that would instantiate it by unusual means.

    Raises:
        CheckpointError: as `read_checkpoint`, or the checkpoint is one of another class.
    """
    parameters = read_checkpoint(path).get("hyper_parameters", {})
    name = str(parameters.get("_class_path", f"{cls.__module__}.{cls.__name__}"))
    instantiator = parameters.get("_instantiator", INSTANTIATOR)
    if name.rsplit(".", 1)[-1] != cls.__name__ or instantiator != INSTANTIATOR:
        raise CheckpointError(f"{path!r} is a checkpoint of {name}, not of {cls.__name__}")
