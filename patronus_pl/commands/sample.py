"""`patronus sample`: images from nothing."""

from pathlib import Path

import numpy as np
import torch
from torchvision.utils import save_image
from tqdm import tqdm

from patronus_pl.commands.files import find_checkpoint, writable_folder
from patronus_pl.data import Activations
from patronus_pl.diffusion import NoiseSource
from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.hardware import device_of
from patronus_pl.modules import LatentPrior, PatronusModule


@torch.inference_mode()
def sample(
    ckpt: str,
    out: str = "samples",
    prior: str | None = None,
    from_: str | None = None,
    n: int = 64,
    steps: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Draw images from new noise and activations of a prior or of real images: PNGs and one grid.

    Args:
        ckpt: a checkpoint, or the folder of a run.
        out: folder to write to.
        prior: checkpoint of a prior, or the folder of its run, that draws the activations.
        from_: instead of a prior, activations of real images that `patronus encode` wrote.
        n: how many images; image k is the same for every n and batch size.
        steps: of DPM-Solver++.
        batch_size: images drawn at once.
        seed: of activations and noise.
        device: auto, cpu or cuda[:i].
    """
    if n < 1 or batch_size < 1:
        raise InvalidOptionError(f"n is {n} and batch_size {batch_size}; draw at least 1 image, at least 1 at once")
    model = PatronusModule.load_from_checkpoint(find_checkpoint(ckpt)).to(device_of(device))
    s = _activations(model, prior, from_, n, seed)
    folder = writable_folder(Path(out))
    drawn = []
    for start in tqdm(range(0, n, batch_size), desc="sample", unit="batch"):
        rows = range(start, min(start + batch_size, n))
        x_T = NoiseSource(seed, rows)((len(rows), *model.image_shape)).to(model.device)
        drawn.append(model.decode(x_T, s[start : start + len(rows)], steps, sampler="dpm++").cpu())
    images = torch.cat(drawn).clamp(-1, 1) / 2 + 0.5
    for k, image in enumerate(images):
        save_image(image, folder / f"{k:05d}.png")
    save_image(images, folder / "grid.png", nrow=max(1, round(n**0.5)))
    print(f"{n} images -> {folder}")


def _activations(model: PatronusModule, prior: str | None, file: str | None, n: int, seed: int) -> torch.Tensor:
    """(n, m) on the device of the model, drawn by the prior or from the rows of the file."""
    if prior is not None and file is None:
        source, s = prior, LatentPrior.load_from_checkpoint(find_checkpoint(prior), model.device).sample(n, seed)
    elif file is not None and prior is None:
        data = Activations(file)
        data.setup()
        real = np.concatenate([table.activations for table in data.tables.values()])
        source, s = file, torch.from_numpy(real[np.random.default_rng(seed).integers(0, len(real), n)])
    else:
        raise InvalidOptionError(
            "activations come from --prior PRIOR_CKPT or --from activations.npz; give one of the two"
        )
    if s.shape[1] != model.prototypes.count:
        raise CheckpointError(
            f"{source!r} gives {s.shape[1]} activations an image, but the checkpoint has {model.prototypes.count} "
            "prototypes; encode, and train the prior, with the same checkpoint"
        )
    return s.to(model.device)
