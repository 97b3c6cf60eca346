"""`patronus sample`: images from nothing."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from patronus_pl.analysis.attributes.association import associate
from patronus_pl.analysis.attributes.balance import balance as balanced
from patronus_pl.analysis.audit.audit import restricted
from patronus_pl.analysis.editing.decoding import decode_from_noise, encode
from patronus_pl.analysis.subject import Subject
from patronus_pl.commands.opening import data_of
from patronus_pl.commands.ranks import all_ranks
from patronus_pl.data import Activations, ImageDataModule
from patronus_pl.diffusion import Sampling
from patronus_pl.diffusion.guidance import LARGEST
from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.hardware import autocast
from patronus_pl.modules import LatentPrior, PatronusModule
from patronus_pl.ranks import Ranks
from patronus_pl.runs import find_checkpoint, writable_folder
from patronus_pl.types import ImageBytes

READ_FROM = 8000
"""Training images, at most, that a probe is fitted on which reads attributes in activations."""


@torch.inference_mode()
def sample(
    ckpt: str,
    out: str = "samples",
    prior: str | None = None,
    from_: str | None = None,
    n: int = 64,
    balance: str | None = None,
    candidates: int = 16,
    guidance: float = 1.0,
    data: ImageDataModule | None = None,
    steps: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["auto", "32", "bf16"] = "auto",
) -> None:
    """Draw images from new noise and activations of a prior or of real images: PNGs and one grid.

    With neither a prior nor activations, a model that was trained with masks draws images without being told anything.

    Started by torchrun or srun, its processes share the images.

    Args:
        ckpt: a checkpoint, or the folder of a run.
        out: folder to write to.
        prior: checkpoint of a prior, or the folder of its run, that draws the activations.
        from_: instead of a prior, activations of real images that `patronus encode` wrote.
        n: how many images; without --balance image k is the same for every n and batch size.
        balance: attributes "A,B" that are to be independent in the images, each as common as the prior draws it: more
            activations are drawn, their attributes read by a linear probe, and those kept that make it so.
        candidates: how many activations are then drawn for each image.
        guidance: weight w of the activations, in D + w (D(s) - D), where the denoiser D is told nothing. Above 1 images
            follow their activations more closely and vary less, and they take twice as long; 1 is no guidance. Other
            weights take a model that was trained with masks.
        data: images with attributes, on which the probe is fitted; by default those the checkpoint was trained on.
        steps: of DPM-Solver++.
        batch_size: images drawn at once.
        seed: of activations and noise.
        device: auto, cpu or cuda[:i].
        precision: of the denoiser; auto is bf16 where that is the faster one.
    """
    if n < 1 or batch_size < 1:
        raise InvalidOptionError(f"n is {n} and batch_size {batch_size}; draw at least 1 image, at least 1 at once")
    names = [] if balance is None else [name.strip() for name in balance.split(",")]
    if balance is not None and (len(set(names)) != len(names) or len(names) < 2 or candidates < 1):
        raise InvalidOptionError(
            f"--balance is {balance!r} and --candidates {candidates}; give different attributes, as in "
            "'Black_Hair,Smiling', and at least 1 candidate an image"
        )
    checkpoint = find_checkpoint(ckpt)
    with all_ranks() as ranks:
        model = PatronusModule.load_from_checkpoint(checkpoint).to(ranks.device(device))
        _check_told(model, prior, from_, names, guidance)
        s = _activations(model, prior, from_, n * candidates if names else n, seed)
        if s is not None and names:
            with ranks.first_alone():
                known = restricted(Subject.of(data_of(checkpoint, data), "train", READ_FROM), names)
            s = _balanced(model, s, known, n, seed, say=ranks.rank == 0)
        folder = writable_folder(Path(out))
        with autocast(model.device, precision):
            mine = _draw(model, s, n, folder, ranks, Sampling(steps, "dpm++", seed, batch_size), guidance)
        everyone = ranks.in_turn(list(mine))
    if ranks.rank > 0:
        return
    _write_png(_grid(torch.stack(everyone), max(1, round(n**0.5))), folder / "grid.png")
    print(f"{n} images -> {folder}")


def _balanced(model: PatronusModule, s: Tensor, known: Subject, n: int, seed: int, say: bool) -> Tensor:
    """As many of the activations as images are wanted, in which the attributes are independent."""
    names, images = known.attribute_names, torch.from_numpy(np.ascontiguousarray(known.images))
    kept = balanced(s.cpu(), encode(model, images), torch.from_numpy(known.attributes), names, n, seed)
    if say:
        quality = ", ".join(f"{name} {area:.2f}" for name, area in zip(names, kept.auroc.tolist(), strict=True))
        before, after = (
            float(associate(read, names, samples=1).phi.triu(1).abs().nan_to_num(0).max())
            for read in (kept.read, kept.read[kept.rows])
        )
        print(f"read by a probe (AUROC {quality}): largest phi {before:.2f} in {len(s)} candidates, {after:.2f} in {n}")
    return s[kept.rows.to(s.device)]


def _check_told(
    model: PatronusModule, prior: str | None, file: str | None, balanced: Sequence[str], guidance: float
) -> None:
    """Refuse what the denoiser is to be told if it cannot be told that, before anything is written."""
    if prior is not None and file is not None:
        raise InvalidOptionError("--prior and --from both say which activations to draw from; give one of the two")
    untold = prior is None and file is None
    if untold and (balanced or guidance != 1):
        raise InvalidOptionError("--balance and --guidance need activations; give --prior PRIOR_CKPT or --from s.npz")
    if untold and model.masks is None:
        raise InvalidOptionError(
            "the checkpoint was trained without masks and cannot draw images without activations; give --prior "
            "PRIOR_CKPT or --from activations.npz"
        )
    if not abs(guidance) <= LARGEST:
        raise InvalidOptionError(f"--guidance is {guidance}; give a number between -{LARGEST:g} and {LARGEST:g}")
    if guidance != 1 and model.masks is None:
        raise InvalidOptionError(
            f"--guidance is {guidance:g}, but the checkpoint was trained without masks and knows no images without a "
            "condition; leave --guidance at 1, or train with model.masks"
        )


def _draw(
    model: PatronusModule, s: Tensor | None, n: int, folder: Path, ranks: Ranks, sampling: Sampling, guidance: float
) -> ImageBytes:
    """Draw and write the images that are this process's."""
    mine, size = ranks.share(n), sampling.batch_size
    drawn = [torch.empty((0, *model.image_shape), dtype=torch.uint8)]
    own = None if s is None else s[list(mine)]
    batches = decode_from_noise(model, own, mine, sampling, None if guidance == 1 else guidance)
    bar = tqdm(batches, desc="sample", unit="batch", total=-(-len(mine) // size), disable=ranks.rank > 0)
    for start, images in zip(count(0, size), bar, strict=False):
        for k, image in zip(mine[start : start + size], images, strict=True):
            _write_png(image, folder / f"{k:05d}.png")
        drawn.append(images)
    return torch.cat(drawn)


def _grid(images: ImageBytes, columns: int) -> UInt8[Tensor, "c rows cols"]:
    """All images in one, two pixels apart."""
    count, gap = len(images), 2
    padded = torch.zeros((count + -count % columns, images.shape[1], *(side + gap for side in images.shape[2:])))
    padded[:count, :, gap:, gap:] = images
    whole = rearrange(padded.byte(), "(r k) c h w -> c (r h) (k w)", k=columns)
    return torch.nn.functional.pad(whole, (0, gap, 0, gap))


def _write_png(image: UInt8[Tensor, "c h w"], path: Path) -> None:
    Image.fromarray(image.movedim(0, -1).squeeze(-1).numpy()).save(path)


def _activations(model: PatronusModule, prior: str | None, file: str | None, n: int, seed: int) -> Tensor | None:
    """(n, m) on the device of the model, drawn by the prior or from the rows of the file; None if there is neither."""
    if prior is not None:
        source, s = prior, LatentPrior.load_from_checkpoint(find_checkpoint(prior), model.device).sample(n, seed)
    elif file is not None:
        data = Activations(file)
        data.setup()
        real = np.concatenate([table.activations for table in data.tables.values()])
        source, s = file, torch.from_numpy(real[np.random.default_rng(seed).integers(0, len(real), n)])
    else:
        return None
    if s.shape[1] != model.prototypes.count:
        raise CheckpointError(
            f"{source!r} gives {s.shape[1]} activations an image, but the checkpoint has {model.prototypes.count} "
            "prototypes; encode, and train the prior, with the same checkpoint"
        )
    return s.to(model.device)
