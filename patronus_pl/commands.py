"""The commands beside Lightning's own: each a typed function whose docstring is its help page."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.cli import instantiate_module
from numpy.typing import NDArray
from torchvision.utils import save_image
from tqdm import tqdm

from patronus_pl.analysis.findings import Effort, Subject
from patronus_pl.analysis.report import explain as write_report
from patronus_pl.data import Activations, ImageDataModule, PlantedFaces
from patronus_pl.data.base import normalise
from patronus_pl.diffusion import NoiseSource
from patronus_pl.errors import CheckpointError, InvalidOptionError, OutputError
from patronus_pl.hardware import device_of
from patronus_pl.modules import LatentPrior, PatronusModule
from patronus_pl.modules.checkpoint import read_checkpoint, save_module
from patronus_pl.modules.reference import load_reference


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


def explain(
    ckpt: str,
    out: str | None = None,
    data: ImageDataModule | None = None,
    split: str = "test",
    n: int = 2000,
    effort: Effort = Effort(),  # noqa: B008  (frozen; jsonargparse shows its fields as options)
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Write report.html, one page that shows what the model learned, its pictures as PNG files, and report.json.

    Args:
        ckpt: a checkpoint, or the folder of a run.
        out: folder for the report; by default that of the run.
        data: images; by default those the checkpoint was trained on.
        split: train, val or test.
        n: how many images of the split to look at.
        effort: how much to measure.
        seed: of everything random.
        device: auto, cpu or cuda[:i].
    """
    seed_everything(seed, verbose=False)
    checkpoint = find_checkpoint(ckpt)
    model = PatronusModule.load_from_checkpoint(str(checkpoint)).to(device_of(device))
    images = data_of(checkpoint, data)
    folder = Path(out) if out else run_folder(checkpoint)
    write_report(model, subject_of(images, split, n), str(folder), str(checkpoint), replace(effort, seed=seed))
    print(f"report -> {folder / 'report.html'}")


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


def import_reference(directory: str, out: str = "model.ckpt") -> None:
    """Turn a checkpoint of the paper's authors (ckpt.tar with config.txt or config.pickle) into ours.

    Args:
        directory: folder that holds the files.
        out: checkpoint to write.
    """
    model = load_reference(directory)
    writable_folder(Path(out).parent)
    save_module(model, out)
    print(f"{model.prototypes.count} prototypes, images {model.image_shape} -> {out}")
