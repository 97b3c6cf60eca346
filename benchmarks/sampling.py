"""Seconds an image at equal quality: DPM-Solver++ in few steps beside the reference's loop over all timesteps.

python benchmarks/sampling.py --ckpt runs/quickstart [--images 512] [--quick]

Both draw the same images: from the same noise, under activations of the test split. Quality is the Fréchet distance to
those test images in the features of a fixed random network. Plain is DDIM over all T steps, fp32, contiguous; patronus
takes the fewest steps whose distance is at most 5 % above. Times are medians over batches of 64; that of the plain way
is of some steps, times T.
"""

from itertools import islice

import torch
from report import median_seconds, options, report
from steps import FAST, PLAIN, Way
from torch import Tensor

from patronus_pl.commands.opening import opened
from patronus_pl.diffusion import NoiseSource
from patronus_pl.metrics import RandomFeatures, frechet_distance
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats

STEPS = (3, 4, 5, 7, 10, 15, 20, 30, 50)
BATCH = 64


def draw(model: PatronusModule, x_T: Tensor, s: Tensor, steps: int, sampler: str, way: Way) -> Tensor:
    model = model.to(memory_format=way.memory_format)
    pairs = zip(x_T.split(BATCH), s.split(BATCH), strict=True)
    with way.autocast():
        return torch.cat([model.decode(x, c, steps, sampler) for x, c in pairs])


def seconds_an_image(model: PatronusModule, x_T: Tensor, s: Tensor, steps: int, sampler: str, way: Way) -> float:
    """Of one batch; at most twenty steps are taken, and the time is that of all."""
    model, x_T, s = model.to(memory_format=way.memory_format), x_T[:BATCH], s[:BATCH]
    taken = min(steps, 20)

    def run() -> None:
        with way.autocast():
            for _ in islice(model.sample_steps(x_T, s, steps, sampler), taken):
                pass

    return median_seconds(run) / len(x_T) * steps / taken


@torch.no_grad()
def main() -> None:
    chosen = options(__doc__, "sampling", ckpt="runs/quickstart", images=512)
    _, model, data = opened(chosen.ckpt, None, seed=0, device="cpu")
    table, T = data.table("test"), 20 if chosen.quick else model.schedule.timesteps
    count = 8 if chosen.quick else min(chosen.images, len(table))
    real = as_floats(table.__getitems__(range(count))["image"])
    s = torch.cat([model.encode(x) for x in real.split(BATCH)])
    x_T, network = NoiseSource(0, range(count))(real.shape), RandomFeatures(model.image_shape[0])

    def distance(images: Tensor) -> float:
        return frechet_distance(network(real), network(images))

    best = distance(draw(model, x_T, s, T, "ddim", PLAIN))
    rows = [{"way": f"DDIM, {PLAIN.name}", "precision": PLAIN.precision, "steps": T, "distance": best}]
    rows[0]["seconds_an_image"] = seconds_an_image(model, x_T, s, T, "ddim", PLAIN)
    for steps in STEPS:
        found = distance(draw(model, x_T, s, steps, "dpm++", FAST))
        rows.append(
            {"way": f"DPM-Solver++, {FAST.name}", "precision": FAST.precision, "steps": steps, "distance": found}
        )
        rows[-1]["seconds_an_image"] = seconds_an_image(model, x_T, s, steps, "dpm++", FAST)
        if found <= 1.05 * best:
            break
    reached = rows[-1]["distance"] <= 1.05 * best
    ratio = rows[0]["seconds_an_image"] / rows[-1]["seconds_an_image"]
    report(rows, chosen, images=count, within_5_percent=reached, ratio=ratio if reached else None, goal=200.0)


if __name__ == "__main__":
    main()
