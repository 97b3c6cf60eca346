"""What every command does first: find the checkpoint, its data and a folder to write to."""

import tempfile
from pathlib import Path

import numpy as np
from lightning.pytorch.cli import instantiate_module
from numpy.typing import NDArray

from patronus_pl.analysis.findings import Subject
from patronus_pl.data import ImageDataModule, PlantedFaces
from patronus_pl.errors import CheckpointError, OutputError
from patronus_pl.modules.checkpoint import read_checkpoint


def find_checkpoint(path: str) -> Path:
    """A checkpoint: the file itself, or `last.ckpt` of the newest run below a folder such as `runs/quickstart`.

    Raises:
        CheckpointError: the folder holds none.
    """
    if not Path(path).is_dir():
        return Path(path)
    found = sorted(Path(path).rglob("checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise CheckpointError(f"no checkpoints/last.ckpt below {path!r}; train one with `patronus fit`")
    return found[-1]


def writable_folder(path: Path) -> Path:
    """The folder, made if need be.

    Raises:
        OutputError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise OutputError(f"cannot write to {str(path)!r} ({error.strerror}); choose another --out") from error


def data_of(checkpoint: Path, data: ImageDataModule | None) -> ImageDataModule:
    """`data`, or else what the checkpoint was trained on: its configuration travels with it.

    Raises:
        CheckpointError: neither is there.
    """
    if data is None:
        configuration = read_checkpoint(str(checkpoint)).get("datamodule_hyper_parameters", {})
        if "_class_path" not in configuration:
            raise CheckpointError(f"{str(checkpoint)!r} does not say what it was trained on; add --data configs/X.yaml")
        data = instantiate_module(
            ImageDataModule, {name: value for name, value in configuration.items() if name != "_instantiator"}
        )
    data.prepare_data()
    return data


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def subject_of(data: ImageDataModule, split: str, n: int) -> Subject:
    """The first n images of a split, with what the data know of them."""
    table = data.table(split)
    rows = np.arange(min(n, len(table)))
    return Subject(
        images=table.subset(rows).images,
        attributes=table.attributes[rows],
        ids=table.ids[: len(rows)],
        attribute_names=data.attribute_names,
        attribute_kind=data.attribute_kind,
        description={**data.describe(), "split": split},
        masks=_attribute_masks(data, split, rows[:512]) if isinstance(data, PlantedFaces) else None,
    )


def _attribute_masks(data: PlantedFaces, split: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(k, a, h, w): the part that shows each attribute; empty for attributes of the whole image."""
    parts = data.masks(split, rows)
    masks = np.zeros((len(rows), len(data.attribute_names), *parts.shape[2:]), dtype=np.bool_)
    for name, part in data.attribute_part.items():
        masks[:, data.attribute_names.index(name)] = parts[:, data.part_names.index(part)]
    return masks
