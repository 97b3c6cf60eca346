"""An edit's round trip, image → x_T → image, in few refined steps beside the reference's loop over all timesteps.

python benchmarks/inversion.py --ckpt runs/quickstart [--images 64] [--quick]

PSNR is that of images that come back under their own activations; an edit takes as long and differs in s alone. Plain
is DDIM and its inversion over all T steps, fp32, contiguous, one evaluation a step; patronus takes steps that are dense
where noise is small (`spacing: quadratic`), inverts with two fixed-point iterations each (`refine=2`), and needs the
fewest steps whose PSNR is no lower. The time of the plain way is of some steps, times T.
"""

from collections.abc import Iterator
from itertools import islice

import torch
from report import median_seconds, options, report
from steps import FAST, PLAIN, Way
from torch import Tensor

from patronus_pl.commands.opening import opened
from patronus_pl.diffusion import samplers
from patronus_pl.metrics import psnr
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats

STEPS = (5, 10, 15, 20, 30, 50, 100)


def both_ways(model: PatronusModule, x: Tensor, s: Tensor, steps: int, refine: int) -> Iterator[tuple[object, object]]:
    """Pairs of a step there and a step back, for the clock."""
    denoise = model.denoiser_for(s)
    there = samplers.ddim_invert(denoise, x, model.schedule, steps, refine=refine)
    return zip(there, samplers.ddim(denoise, x, model.schedule, steps), strict=True)


def row(model: PatronusModule, x: Tensor, steps: int, refine: int, way: Way, compare: bool = True) -> dict[str, object]:
    model, taken = model.to(memory_format=way.memory_format), min(steps, 20)
    with way.autocast():
        s = model.encode(x)
        back = model.decode(model.invert(x, s, steps, refine=refine), s, steps, clip=False)

        def clocked() -> None:
            for _ in islice(both_ways(model, x, s, steps, refine), taken):
                pass

        seconds = median_seconds(clocked) * steps / taken / len(x)
    return {
        "way": way.name,
        "precision": way.precision,
        "steps": steps,
        "psnr": float(psnr(back.clamp(-1, 1), x).mean()),
        "seconds_an_image": seconds,
    }


@torch.no_grad()
def main() -> None:
    chosen = options(__doc__, "inversion", ckpt="runs/quickstart", images=64)
    _, model, data = opened(chosen.ckpt, None, seed=0, device="cpu")
    count, T = (4, 20) if chosen.quick else (chosen.images, model.schedule.timesteps)
    x = as_floats(data.table("test").__getitems__(range(count))["image"])
    rows = [row(model, x, T, 0, PLAIN)]
    model.schedule.spacing = "quadratic"  # of all T steps there is but one spacing
    for steps in STEPS:
        rows.append(row(model, x, steps, 2, FAST))
        if rows[-1]["psnr"] >= rows[0]["psnr"]:
            break
    reached = rows[-1]["psnr"] >= rows[0]["psnr"]
    ratio = rows[0]["seconds_an_image"] / rows[-1]["seconds_an_image"]
    report(rows, chosen, images=count, no_lower_psnr=reached, ratio=ratio if reached else None, goal=40.0)


if __name__ == "__main__":
    main()
