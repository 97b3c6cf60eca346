"""Reading checkpoints, with errors that say what is wrong."""

import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from patronus_pl.errors import CheckpointError

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


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
