"""What takes a planted shortcut out again, and at what cost: training penalties, compensated edits, balanced samples.

python benchmarks/mitigation.py [--steps 5000] [--prior-steps 5000] [--folder runs/mitigation] [--quick]

Planted faces in which black hair and smiles are correlated train the quickstart three times: as it is, without the
decorrelation, and with `balance`, which takes the tie out of the decorrelation. A judge that knows every portrait says
what edits of each model move, plain and compensated, and how black hair and smiles go together in images drawn from
activations of test images, and from a prior with and without `--balance`.

moved: by how much an edit changes the share of images with the attribute that it is for, mean over attributes
tie: of the pair, mean of both directions, on the scale of phi (compare `planted`); leakage: mean |tie| of all pairs
phi: of the pair among the drawn images; to_tied, to_untied: Fréchet distance, in the features of a fixed random
network, to test images with and without the tie

What is trained is not trained again: a run that was interrupted goes on where it was.
"""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from report import options, report
from torch import Tensor

from patronus_pl.analysis.attributes.association import associate
from patronus_pl.analysis.attributes.judges import NearestPortrait, assess, judged
from patronus_pl.analysis.audit.audit import AUDIT_SAMPLING
from patronus_pl.analysis.audit.compensate import compensated_moves
from patronus_pl.analysis.audit.intervene import Moves, attribute_moves, intervene
from patronus_pl.analysis.audit.ties import MOVED, effects, tie_matrix
from patronus_pl.analysis.editing.decoding import decode_from_noise, encode
from patronus_pl.analysis.subject import Subject
from patronus_pl.commands.experiment import once, train
from patronus_pl.data import PlantedFaces
from patronus_pl.data.planted_attributes import ATTRIBUTES
from patronus_pl.data.planted_templates import every_portrait
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.metrics import RandomFeatures, frechet_distance
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.runs import find_checkpoint, writable_folder

CONFIGS = Path(__file__).parent.parent / "configs"
PAIR = ("Black_Hair", "Smiling")
RECIPES = {
    "plain": [],
    "no decorrelation": ["--model.objective.decorrelation.weight=0"],
    "balance": [f"--model.objective.decorrelation.balance={json.dumps(PAIR)}"],
}
REFERENCE = 4000
"""Training images that directions are fitted on."""


class Bench(NamedTuple):
    """What all models are measured on."""

    training: Subject
    tied: Subject
    untied: Subject
    judge: NearestPortrait
    gain: Tensor
    features: RandomFeatures
    edited: int

    def distances(self, images: Tensor) -> dict[str, float]:
        def seen(pictures: Tensor) -> Tensor:
            return torch.cat([self.features(as_floats(chunk)) for chunk in pictures.split(500)])

        drawn = seen(images)
        sets = {"to_tied": self.tied, "to_untied": self.untied}
        return {name: frechet_distance(seen(torch.from_numpy(of.images)), drawn) for name, of in sets.items()}

    def phi(self, images: Tensor) -> float:
        has = (judged(self.judge, images, len(ATTRIBUTES)) > 0.5).float()
        return float(associate(has[:, pair()], samples=1).phi[0, 1])


def pair() -> list[int]:
    return [ATTRIBUTES.index(name) for name in PAIR]


def bench(rho: float, images: int, edited: int) -> Bench:
    correlation = {",".join(PAIR): rho}
    tied, untied = (PlantedFaces(train_size=REFERENCE, test_size=images, correlation=c) for c in (correlation, None))
    portraits, attributes = (torch.from_numpy(array) for array in every_portrait(tied.image_size))
    judge = NearestPortrait(as_floats(portraits), attributes)
    trial = Subject.of(untied, "test", 2000)
    quality = assess(judge, torch.from_numpy(np.ascontiguousarray(trial.images)), torch.from_numpy(trial.attributes))
    gain = quality.gain.where(quality.usable, torch.nan)
    subjects = Subject.of(tied, "train"), Subject.of(tied, "test"), Subject.of(untied, "test")
    return Bench(*subjects, judge, gain, RandomFeatures(3), edited)


# ---- commands --------------------------------------------------------------------------------------------------------


def trained(folder: Path, recipe: str, chosen: Namespace) -> PatronusModule:
    tie = f"--data.init_args.correlation={json.dumps({','.join(PAIR): chosen.rho})}"
    small = ["--data.init_args.train_size=256", "--data.init_args.val_size=32"] if chosen.quick else []
    train(folder, str(CONFIGS / "quickstart.yaml"), chosen.seed, [tie, *RECIPES[recipe], *small, *length(chosen.steps)])
    return PatronusModule.load_from_checkpoint(find_checkpoint(str(folder / "fit")))


def length(steps: int) -> list[str]:
    return [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={max(1, steps // 4)}"]


def prior_samples(folder: Path, chosen: Namespace, name: str, *more: str) -> Tensor:
    """Images from a prior over the activations of the training images."""
    model, file, prior, out = str(folder / "fit"), folder / "activations.npz", folder / "prior", folder / name
    once(["encode", model, f"--out={file}"], folder / "encode.log", file)
    options = [f"--data.init_args.file={file}", *length(chosen.prior_steps)]
    train(writable_folder(prior), str(CONFIGS / "planted_faces_prior.yaml"), chosen.seed, options)
    how = [f"--prior={prior}", f"--out={out}", f"--n={chosen.images}", *more]
    once(["sample", model, *how], folder / f"{name}.log", out / "grid.png")
    pictures = [np.asarray(Image.open(out / f"{k:05d}.png")) for k in range(chosen.images)]
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).contiguous()


# ---- what is measured ------------------------------------------------------------------------------------------------


def edit_rows(model: PatronusModule, on: Bench) -> list[dict[str, Any]]:
    """Edits of every attribute in test images with new noise: plain, and compensated by what the plain ones did."""
    known = torch.from_numpy(on.training.attributes)
    reference, s = (
        encode(model, torch.from_numpy(np.ascontiguousarray(images)))
        for images in (on.training.images, on.untied.images[: on.edited])
    )
    x_T = torch.randn(len(s), *model.image_shape, generator=torch.Generator().manual_seed(0))
    data = associate(known, ATTRIBUTES, samples=1)
    moves = attribute_moves(reference, known, ATTRIBUTES)
    apart = ~on.gain.isnan() & ~data.group & ~torch.eye(len(ATTRIBUTES), dtype=torch.bool)

    def row(how: str, moves: Moves) -> tuple[dict[str, Any], Tensor]:
        seen = intervene(model, on.judge, len(ATTRIBUTES), moves, s, x_T, AUDIT_SAMPLING, keep=len(s))
        share = effects(seen.change, on.gain, samples=2).share
        tie, own = tie_matrix(share, moves.own, data.spread), share.diagonal()
        tested = apart & (own >= MOVED)[:, None]
        a, b = pair()
        both = torch.stack([tie[a, b], tie[b, a]])
        numbers = {
            "how": how,
            "moved": float(own.nanmean()),
            "moved_pair": float(own[[a, b]].mean()),
            "tie": float(both.where(tested[[a, b], [b, a]], torch.nan).nanmean()),
            "leakage": float(tie.abs().where(tested, torch.nan).nanmean()),
        }
        return numbers | on.distances(seen.pictures.flatten(0, 2)), share

    plain, share = row("edits", moves)
    hold = ~on.gain.isnan() & ~data.group
    other, _ = row(
        "edits, compensated", compensated_moves(moves, (share / data.spread).nan_to_num(0.0), hold, reference)
    )
    return [plain, other]


def sample_row(how: str, images: Tensor, on: Bench) -> dict[str, Any]:
    return {"how": how, "phi": on.phi(images), **on.distances(images)}


def redrawn(model: PatronusModule, on: Bench) -> Tensor:
    """Images from the activations of all tied test images and new noise."""
    s = encode(model, torch.from_numpy(on.tied.images))
    return torch.cat(list(decode_from_noise(model, s, range(len(s)), Sampling(20))))


def main() -> None:
    chosen = options(
        __doc__,
        "mitigation",
        steps=5000,
        prior_steps=5000,
        rho=0.75,
        edited=200,
        images=2000,
        seed=0,
        folder=Path("runs/mitigation"),
    )
    if chosen.quick:
        chosen.steps, chosen.prior_steps, chosen.edited, chosen.images = 4, 4, 8, 32
        chosen.folder = chosen.folder.with_name(f"{chosen.folder.name}_quick")
    on, rows = bench(chosen.rho, chosen.images, chosen.edited), []
    with torch.no_grad():
        for recipe in RECIPES:
            name = f"{recipe.replace(' ', '_')}_{chosen.rho:g}_{chosen.steps}_{chosen.seed}"
            folder = writable_folder(chosen.folder / name, "--folder")
            model = trained(folder, recipe, chosen)
            found = [*edit_rows(model, on), sample_row("samples, s of images", redrawn(model, on), on)]
            if recipe == "plain":
                plain = prior_samples(folder, chosen, "samples")
                balanced = prior_samples(folder, chosen, "balanced", f"--balance={','.join(PAIR)}")
                found += [sample_row("samples, prior", plain, on), sample_row("samples, prior, balanced", balanced, on)]
            rows += [{"model": recipe, **row} for row in found]
    test = on.phi(torch.from_numpy(on.tied.images))
    report(rows, chosen, planted=chosen.rho, phi_of_test_images=test)


if __name__ == "__main__":
    main()
