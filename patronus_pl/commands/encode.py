"""`patronus encode`: activations of a data set, as a file."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything
from tqdm import tqdm

from patronus_pl.commands.files import data_of, find_checkpoint, writable_folder
from patronus_pl.data import ImageDataModule
from patronus_pl.data.base import normalise
from patronus_pl.hardware import device_of
from patronus_pl.modules import PatronusModule


@torch.inference_mode()
def encode(
    ckpt: str,
    out: str = "activations.npz",
    data: ImageDataModule | None = None,
    split: str = "train",
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Write the activations s of every image of a split, with attributes and ids, to an .npz file.

    Args:
        ckpt: a checkpoint, or the folder of a run.
        out: file to write.
        data: images; by default those the checkpoint was trained on.
        split: train, val or test.
        seed: of everything random.
        device: auto, cpu or cuda[:i].
    """
    seed_everything(seed, verbose=False)
    checkpoint = find_checkpoint(ckpt)
    model = PatronusModule.load_from_checkpoint(str(checkpoint)).to(device_of(device))
    images = data_of(checkpoint, data)
    writable_folder(Path(out).parent)
    batches = tqdm(images.loader(split), desc="encode", unit="batch")
    s = torch.cat([model.encode(normalise(batch["image"].to(model.device))).cpu() for batch in batches])
    table = images.table(split)
    _write_npz(
        Path(out),
        activations=s.numpy(),
        attributes=table.attributes,
        attribute_names=np.array(images.attribute_names, dtype=np.str_),
        ids=np.array(table.ids, dtype=np.str_),
    )
    print(f"{len(s)} images x {s.shape[1]} activations -> {out}")


def _write_npz(path: Path, **arrays: Any) -> None:
    """All or nothing: an interrupted run leaves no half file."""
    with tempfile.NamedTemporaryFile(dir=path.parent or ".", suffix=".npz", delete=False) as file:
        try:
            np.savez(file, **arrays)
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)
