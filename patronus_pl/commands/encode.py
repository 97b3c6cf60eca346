"""`patronus encode`: activations of a data set, as a file."""

import numpy as np
import torch
from lightning.pytorch import seed_everything
from numpy.typing import NDArray
from tqdm import tqdm

from patronus_pl.commands.opening import data_of
from patronus_pl.commands.ranks import all_ranks
from patronus_pl.data import ImageDataModule
from patronus_pl.data.image_table import ImageTable
from patronus_pl.files import replacing
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.ranks import Ranks
from patronus_pl.runs import find_checkpoint, writable_file


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

    Started by torchrun or srun, its processes share the images, and the first writes the file.

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
    with all_ranks() as ranks:
        model = PatronusModule.load_from_checkpoint(str(checkpoint)).to(ranks.device(device))
        with ranks.first_alone():
            images = data_of(checkpoint, data)
            table = images.table(split)
        path = writable_file(out)
        batches = ranks.in_turn(_activations(model, table, ranks, images.batch_size))
    if ranks.rank > 0:
        return
    s = np.concatenate(batches)
    with replacing(path, "choose another --out") as file:
        np.savez(
            file,
            activations=s,
            attributes=table.attributes,
            attribute_names=np.array(images.attribute_names, dtype=np.str_),
            ids=np.array(table.ids, dtype=np.str_),
        )
    print(f"{len(s)} images x {s.shape[1]} activations -> {out}")


def _activations(model: PatronusModule, table: ImageTable, ranks: Ranks, batch_size: int) -> list[NDArray[np.float32]]:
    """(b, m) of each batch that is this process's."""
    found = []
    for rows in tqdm(ranks.batches(len(table), batch_size), desc="encode", unit="batch", disable=ranks.rank > 0):
        image = table.__getitems__(rows)["image"].to(model.device)
        found.append(model.encode(as_floats(image)).cpu().numpy())
    return found
