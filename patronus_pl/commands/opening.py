"""What every command does first: load the checkpoint, and find the images to use it on."""

import json
from pathlib import Path

from lightning.pytorch import seed_everything
from lightning.pytorch.cli import instantiate_module

from patronus_pl.data import ImageDataModule
from patronus_pl.data.stored import recall_training, stored_configuration
from patronus_pl.errors import CheckpointError
from patronus_pl.hardware import device_of
from patronus_pl.modules import PatronusModule
from patronus_pl.modules.checkpoint import read_checkpoint
from patronus_pl.modules.parts import check_shape
from patronus_pl.runs import find_checkpoint


def opened(
    ckpt: str, data: ImageDataModule | None, seed: int, device: str
) -> tuple[Path, PatronusModule, ImageDataModule]:
    """Return the checkpoint, its model on the device, and the images; seed everything random.

    Args:
        ckpt: a checkpoint, or the folder of a run.
        data: images; None for those that the checkpoint was trained on.
        seed: seed of everything random.
        device: auto, cpu or cuda[:i].

    Raises:
        CheckpointError: as `data_of`, or no checkpoint.
    """
    seed_everything(seed, verbose=False)
    checkpoint = find_checkpoint(ckpt)
    model = PatronusModule.load_from_checkpoint(str(checkpoint)).to(device_of(device))
    return checkpoint, model, data_of(checkpoint, data)


def data_of(checkpoint: Path, data: ImageDataModule | None) -> ImageDataModule:
    """Return `data`, or else the images that the checkpoint was trained on: their configuration travels with it.

    Raises:
        CheckpointError: neither is there, or the model takes images of another shape.
    """
    stored = read_checkpoint(str(checkpoint))
    if data is None:
        configuration = stored_configuration(stored)
        if configuration is None:
            raise CheckpointError(f"{str(checkpoint)!r} does not say what it was trained on; add --data configs/X.yaml")
        data = instantiate_module(ImageDataModule, configuration)
    takes = stored.get("hyper_parameters", {}).get("image_shape")
    if takes is not None:
        check_shape((takes[0], takes[1], takes[2]), data.image_shape)
    recall_training(data, stored)
    data.prepare_data()
    return data


def over_stored_data(argv: list[str]) -> list[str]:
    """Let `--data.init_args.root DIR` alone change one key of the data that a checkpoint was trained on.

    Args:
        argv: arguments of a command, whose first one may be a checkpoint.

    Returns:
        The same arguments, with the stored data put before such an option.
    """
    if "--data" in argv or not argv or argv[0].startswith("-") or not any(arg.startswith("--data.") for arg in argv):
        return argv
    stored = stored_configuration(read_checkpoint(find_checkpoint(argv[0])))
    if stored is None:
        return argv
    data = {"class_path": stored.pop("_class_path"), "init_args": stored}
    return [argv[0], "--data", json.dumps(data), *argv[1:]]
