"""Edits under guidance: how much of an edit arrives, and how much else moves, by three ways to guide it.

python benchmarks/guidance.py --ckpt runs/quickstart [--images 16] [--steps 20] [--quick]

Each prototype is moved from the low to the high end of its own range in test images, from their inverted noise. Without
guidance the denoiser D is told the new activations s'. Guided, it is D_0 + w (D(s') - D_0), where D_0 is

    own          told the image's own activations s
    window       the same, but only at noise levels at which the noisy image decides the prototype (10 to 90 % of what
                 `recovery` measures); w = 1 at all others
    not told     told s' without the prototype

slope: share of what was asked for that arrives, median over prototypes of the mean over images. leakage: movement of
the other prototypes for each unit asked for, both in standard deviations: median over prototypes of the median over the
others. The last two ways take a model that was trained with masks.
"""

import torch
from jaxtyping import Float
from report import options, report
from torch import Tensor

from patronus_pl.analysis.editing.inverting import Inverted, invert
from patronus_pl.analysis.editing.jobs import Job, jobs
from patronus_pl.analysis.explain.recovery import recovery
from patronus_pl.commands.opening import opened
from patronus_pl.diffusion import Denoiser, Sampling, last, sample_steps
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats

WEIGHTS = (1.5, 2.0, 3.0)
READ = 96
"""Images on which the windows are measured."""


def guided(model: PatronusModule, job: Job, way: str, w: float, window: Float[Tensor, "m 2"]) -> Denoiser:
    """Return the guided denoiser of a batch of edits, whose prototypes are given by their indices."""
    prototype = job.prototype.repeat_interleave(2)
    told = torch.ones_like(job.s, dtype=torch.bool).scatter(1, prototype[:, None], False)
    without = model.denoiser_for(job.s, told) if way == "not told" else model.denoiser_for(job.base)
    given, (low, high) = model.denoiser_for(job.s), window[prototype].unbind(1)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        level = model.schedule.snr(t).log()
        inside = (level >= low) & (level <= high) if way == "window" else torch.ones_like(t, dtype=torch.bool)
        weight = torch.where(inside, w, 1.0).reshape(-1, 1, 1, 1)
        return torch.lerp(without(x_t, t), given(x_t, t), weight)

    return denoise


def row(
    model: PatronusModule, inverted: Inverted, way: str, w: float, window: Float[Tensor, "m 2"], sampling: Sampling
) -> dict[str, object]:
    """Edit, encode again, and measure."""
    m = model.prototypes.count
    ends = torch.stack([model.activation_low, model.activation_high], dim=1)
    swing = torch.zeros(m, len(inverted.s), m)
    for job in jobs(inverted, range(m), ends, sampling.batch_size, model.device):
        denoiser = guided(model, job, way, w, window) if w != 1 else model.denoiser_for(job.s)
        x = last(sample_steps(sampling.sampler, denoiser, job.x_T, model.schedule, sampling.steps, clip=True))
        low, high = model.encode(x).reshape(-1, 2, m).unbind(1)
        swing[job.prototype, job.image] = high - low
    asked, sigma = ends[:, 1] - ends[:, 0], model.prototypes.std
    slope = swing.mean(1).diagonal() / asked
    moved = swing.abs().mean(1) / sigma / (asked / sigma)[:, None]
    leakage = moved.fill_diagonal_(torch.nan).nanquantile(0.5, dim=1)
    lowest, middle = slope.quantile(torch.tensor([0.1, 0.5])).tolist()
    leaked = float(leakage.median())
    return {
        "way": way if w != 1 else "none",
        "w": w,
        "slope": middle,
        "slope_10%": lowest,
        "leakage": leaked,
        "leakage_a_slope": leaked / middle,
    }


@torch.no_grad()
def main() -> None:
    chosen = options(__doc__, "guidance", ckpt="runs/quickstart", images=16, steps=20)
    _, model, data = opened(chosen.ckpt, None, seed=0, device="cpu")
    images, read, steps, levels = (2, 8, 2, 4) if chosen.quick else (chosen.images, READ, chosen.steps, 16)
    table, sampling = data.table("test"), Sampling(steps)
    inverted = invert(model, as_floats(table.__getitems__(range(images))["image"]), sampling)
    ways = ("own",)
    window = torch.tensor([-torch.inf, torch.inf]).expand(model.prototypes.count, 2)
    if model.masks is not None:
        found = recovery(model, as_floats(table.__getitems__(range(read))["image"]), sampling, levels).passed[:, [0, 2]]
        window = found.where(found.isfinite(), window)
        ways = ("own", "window", "not told")
    rows = [row(model, inverted, "none", 1.0, window, sampling)]
    for w in WEIGHTS:
        rows += [row(model, inverted, way, w, window, sampling) for way in ways]
    report(rows, chosen, prototypes=model.prototypes.count)


if __name__ == "__main__":
    main()
