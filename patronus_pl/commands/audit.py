"""`patronus audit`: which attributes a model ties together, and whether the data explain it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from patronus_pl.analysis.attributes.judges import Judge, NamedJudge, NearestPortrait, ProbeJudge, train_judge
from patronus_pl.analysis.audit.audit import AUDIT_SAMPLING, Audit, AuditEffort, auditable, restricted
from patronus_pl.analysis.audit.audit import audit as find
from patronus_pl.analysis.audit.audit_report import audit_numbers, told, write_audit
from patronus_pl.analysis.editing.decoding import encode
from patronus_pl.analysis.subject import Subject
from patronus_pl.commands.opening import opened
from patronus_pl.data import ImageDataModule, PlantedFaces
from patronus_pl.data.planted_attributes import ATTRIBUTES
from patronus_pl.data.planted_templates import every_portrait
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.runs import find_checkpoint, run_folder, writable_folder

TRAINED_ON = 8000
"""Largest number of images that a judge is trained on."""
TRIED_ON = 2000
"""Largest number of images that a judge's quality is measured on."""


def audit(
    ckpt: str,
    out: str | None = None,
    data: ImageDataModule | None = None,
    split: str = "test",
    n: int = 200,
    judge: Literal["probe", "cnn", "exact"] | torch.nn.Module = "cnn",
    judge_data: ImageDataModule | None = None,
    attributes: list[str] | None = None,
    reference: int = 4000,
    twin: str | None = None,
    fail_above: float | None = None,
    effort: AuditEffort = AuditEffort(),  # noqa: B008  (frozen; jsonargparse shows its fields as options)
    sampling: Sampling = AUDIT_SAMPLING,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Find out which attributes a model ties together, how strongly, and whether the data do too.

    Writes audit.json and audit.html. Ends with exit code 1 if a tie that the data do not explain exceeds --fail-above.

    Args:
        ckpt: a checkpoint, or the folder of a run.
        out: folder for the audit; by default that of the run.
        data: images with attributes; by default those that the checkpoint was trained on.
        split: train, val or test: the images that are edited, and on which the judge's quality is measured.
        n: number of images to edit.
        judge: who reads the pictures. probe: the model's own encoder; cnn: a small network, trained now; exact: the
            pixels, for planted faces; or any classifier by class_path, from images in [-1, 1] to probabilities in the
            order of the data's attributes (or of its `attribute_names`, if it has them).
        judge_data: images that judges are trained on, such as data without the bias; by default the same data.
        attributes: names of the attributes to audit; by default all.
        reference: number of training images that directions are fitted on.
        twin: checkpoint of the same model, trained without the bias, whose ties are subtracted.
        fail_above: largest tie that need not be explained; by default any size is allowed.
        effort: what to move and to test.
        sampling: how pictures are drawn.
        seed: seed of everything random; it takes the place of `sampling.seed`.
        device: auto, cpu or cuda[:i].
    """
    checkpoint, model, images = opened(ckpt, data, seed, device)
    folder, sampling = writable_folder(Path(out) if out else run_folder(checkpoint)), replace(sampling, seed=seed)
    training, edited = Subject.of(images, "train", reference), Subject.of(images, split, n)
    names, excluded = auditable(training, attributes or ())
    effort.check(len(edited.images))
    other = None if twin is None else PatronusModule.load_from_checkpoint(str(find_checkpoint(twin))).to(model.device)
    if judge_data is not None:
        judge_data.prepare_data()
    teacher, known = judge_data or images, restricted(training, names)
    pixels, asked = torch.from_numpy(np.ascontiguousarray(edited.images)), _judge(judge, model, teacher, names)
    trial = restricted(Subject.of(teacher, split, TRIED_ON), names)
    found = find(model, known, pixels, asked, trial, effort, sampling, other)
    protocol = _protocol(checkpoint, twin, judge, teacher, known, split)
    _tell(found, audit_numbers(found, effort, sampling, protocol, excluded), folder, fail_above)


def _tell(found: Audit, numbers: dict[str, Any], folder: Path, fail_above: float | None) -> None:
    """Write the files, print the worst ties, and exit with code 1 if one is too large."""
    write_audit(found, numbers, str(folder))
    for line in told(numbers):
        print(line)
    worst = found.ties.worst_unexplained()
    print(f"largest unexplained tie, of those beyond chance: {worst:.2f} -> {folder / 'audit.html'}")
    if fail_above is not None and worst > fail_above:
        raise SystemExit(1)


def _judge(
    judge: str | torch.nn.Module, model: PatronusModule, teacher: ImageDataModule, names: Sequence[str]
) -> Judge:
    """Return the judge of that name, or the user's classifier, for these attributes."""
    if isinstance(judge, torch.nn.Module):
        classifier = judge.eval().to(model.device)
        knows = getattr(judge, "attribute_names", teacher.attribute_names)
        return NamedJudge(lambda x: classifier(x.to(model.device)), knows, names)
    if judge == "exact":
        if not isinstance(teacher, PlantedFaces):
            raise InvalidOptionError(
                f"--judge exact knows planted faces alone, not {type(teacher).__name__}; choose cnn or probe"
            )
        if teacher.style != "plain" or teacher.photographic:
            raise InvalidOptionError(
                "--judge exact knows planted faces of the plain style that are not photographic, because only those "
                "have finitely many pictures; choose cnn or probe"
            )
        drawn = every_portrait(teacher.image_size, teacher.rarity)
        portraits, attributes = (torch.from_numpy(array) for array in drawn)
        return NamedJudge(NearestPortrait(as_floats(portraits), attributes), ATTRIBUTES, names)
    lesson = restricted(Subject.of(teacher, "train", TRAINED_ON), names)
    pictures, attributes = torch.from_numpy(np.ascontiguousarray(lesson.images)), torch.from_numpy(lesson.attributes)
    if judge == "cnn":
        return train_judge(pictures, attributes).to(model.device)
    return ProbeJudge(model, encode(model, pictures), attributes)


def _protocol(
    checkpoint: Path,
    twin: str | None,
    judge: str | torch.nn.Module,
    teacher: ImageDataModule,
    training: Subject,
    split: str,
) -> dict[str, Any]:
    """Return what decides the numbers beside effort and sampling."""
    return {
        "checkpoint": checkpoint.name,
        "twin": None if twin is None else Path(twin).name,
        "judge": judge if isinstance(judge, str) else type(judge).__name__,
        "judge_data": str(teacher.describe()),
        "data": {**training.description, "split": split},
        "reference_images": len(training.images),
    }
