"""Rebuild the data of a checkpoint as they were in training, whichever version wrote it."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from patronus_pl.data.files import ImageFiles

KEY = "datamodule_hyper_parameters"


def stored_configuration(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the data configuration of a checkpoint: `_class_path` and arguments; None if it has none.

    Version 0.1 split image files by position. It stored no rule, so that its configurations get this one.
    """
    stored = checkpoint.get(KEY)
    if not isinstance(stored, Mapping) or "_class_path" not in stored:
        return None
    configuration = {name: value for name, value in stored.items() if name != "_instantiator"}
    if "val_fraction" in configuration:
        configuration.setdefault("split_by", "position")
    return configuration


def recall_training(data: Any, checkpoint: Mapping[str, Any]) -> None:
    """Let data know which images a checkpoint was trained on, so that they warn where theirs differ.

    Args:
        data: a data module; anything but image files is left alone.
        checkpoint: what the checkpoint file holds.
    """
    state = checkpoint.get(type(data).__qualname__)
    if isinstance(data, ImageFiles) and isinstance(state, Mapping):
        data.load_state_dict(state)


def keep_split_rule(data: Any, checkpoint: Mapping[str, Any]) -> None:
    """Split the data of a resumed or tested run as its checkpoint did, where version 0.1 wrote it.

    Args:
        data: the data of the run; anything but image files is left alone.
        checkpoint: what the checkpoint file holds.
    """
    stored = stored_configuration(checkpoint)
    if stored is None or "split_by" in checkpoint[KEY] or not isinstance(data, ImageFiles):
        return
    if stored["_class_path"].rpartition(".")[2] == type(data).__name__ and "split_by" in stored:
        rank_zero_info(f"{type(data).__name__}: split by position, as version 0.1 did and the checkpoint was trained")
        data.change_split_rule("position")
