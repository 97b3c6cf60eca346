"""`patronus explain`: the page that shows what a model learned."""

from dataclasses import replace
from pathlib import Path

from patronus_pl.analysis.report.findings import Effort
from patronus_pl.analysis.report.report import explain as write_report
from patronus_pl.analysis.subject import Subject
from patronus_pl.commands.opening import opened
from patronus_pl.data import ImageDataModule
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.runs import run_folder


def explain(
    ckpt: str,
    out: str | None = None,
    data: ImageDataModule | None = None,
    split: str = "test",
    n: int = 2000,
    effort: Effort = Effort(),  # noqa: B008  (frozen; jsonargparse shows its fields as options)
    sampling: Sampling = Sampling(),
    all: bool = False,
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
        sampling: how images are inverted and drawn.
        all: whether the page also shows prototypes that are dead, or unused (edits have a slope below 0.1).
        seed: seed of everything random; it takes the place of `sampling.seed`.
        device: auto, cpu or cuda[:i].
    """
    checkpoint, model, images = opened(ckpt, data, seed, device)
    folder = Path(out) if out else run_folder(checkpoint)
    subject = Subject.of(images, split, n)
    write_report(model, subject, str(folder), str(checkpoint), effort, replace(sampling, seed=seed), all)
    print(f"report -> {folder / 'report.html'}")
