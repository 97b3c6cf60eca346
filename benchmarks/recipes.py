"""What two or more models of the same data paint from s alone: test images, and below them each model's.

python benchmarks/recipes.py NAME=RUN NAME=RUN … [--out docs/recipes.png] [--images 10] [--steps 20]

The first row is real; then come, of every run, images from its s and random noise, and from its s and inverted noise.
"""

import argparse
from pathlib import Path

import torch

from patronus_pl.analysis.pages.figures import image_grid
from patronus_pl.analysis.subject import Subject
from patronus_pl.commands.opening import data_of
from patronus_pl.diffusion import NoiseSource
from patronus_pl.modules import PatronusModule
from patronus_pl.runs import find_checkpoint


def named(entry: str) -> tuple[str, str]:
    """Name and run of an argument."""
    name, equals, run = entry.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{entry!r} is not NAME=RUN, as in ours=runs/quickstart")
    return name, run


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", type=named, metavar="NAME=RUN", help="a word for the figure, and a run or a checkpoint"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/recipes.png"), help="%(default)s")
    parser.add_argument("--images", type=int, default=10, help="%(default)s")
    parser.add_argument("--steps", type=int, default=20, help="%(default)s")
    chosen = parser.parse_args()
    rows, labels = [], ["test images"]
    for name, run in chosen.runs:
        checkpoint = find_checkpoint(run)
        model = PatronusModule.load_from_checkpoint(str(checkpoint))
        x = Subject.of(data_of(checkpoint, None), "test", chosen.images).first(chosen.images)
        s = model.encode(x)
        noise = NoiseSource(0, range(len(x)))(x.shape)
        inverted = model.invert(x, s, steps=chosen.steps, refine=1)
        rows += [*([] if rows else [x]), model.decode(noise, s, chosen.steps), model.decode(inverted, s, chosen.steps)]
        labels += [f"{name}: from s and random noise", f"{name}: from s and inverted noise"]
    chosen.out.write_bytes(image_grid(torch.stack(rows).clamp(-1, 1), labels))


if __name__ == "__main__":
    main()
