"""When a prototype emerges: what the prediction x̂_0 shows at each step. Which steps decide is `survival`'s question."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.stats import kendalltau
from torch import Tensor

from patronus_pl.analysis.editing.changes import chosen
from patronus_pl.analysis.editing.inverting import Inverted, invert
from patronus_pl.analysis.editing.jobs import jobs
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image

VISIBLE = 0.05
"""An edit whose final effect is below this share of the prototype's range has no plateau to time."""


@dataclass(frozen=True)
class Emergence:
    """What `emergence` found, for p prototypes at k timesteps on n images. All on the CPU.

    Attributes:
        prototypes: (p,) their indices.
        t: (k,) timesteps, from the noisiest to the cleanest.
        curve: (p, k) ŝ_J(t) of the edited run - ŝ_J(t) of the original run, mean over images.
        band: (p, k) standard deviation of the same over images.
        plateau: (p,) last value of the curve.
        t10: (p,) timestep at which the curve first passes 10 % of its plateau; NaN where there is none.
        t50: (p,) 50 %.
        t90: (p,) 90 %.
    """

    prototypes: Int[Tensor, " p"]
    t: Int[Tensor, " k"]
    curve: Float[Tensor, "p k"]
    band: Float[Tensor, "p k"]
    plateau: Float[Tensor, " p"]
    t10: Float[Tensor, " p"]
    t50: Float[Tensor, " p"]
    t90: Float[Tensor, " p"]

    @property
    def map(self) -> Float[Tensor, "p k"]:
        """(p, k) the curves in shares of their plateaus; NaN where there is none."""
        return self.curve / self.plateau.where(~self.t50.isnan(), torch.nan)[:, None]


@evaluating
def emergence(
    model: PatronusModule,
    images: Image,
    prototypes: Sequence[int] | None = None,
    steps: int = 20,
    batch_size: int = 64,
) -> Emergence:
    """Emergence curves (Weng et al. 2026): the predicted clean image is encoded again at every step of DDIM.

    Two runs from the same inverted noise: under the image's own s, and with s_J at the high end of its own range. The
    steps are streamed. Costs n · (p + 1) images of `steps` steps each, and as many encodings.

    Args:
        model: the model, whose `activation_low` and `activation_high` bound each prototype's range.
        images: (n, c, h, w) in [-1, 1].
        prototypes: which; None for all m.
        steps: of inversion and DDIM.
        batch_size: images at a time.
    """
    indices = chosen(model, prototypes)
    index = torch.tensor(indices)
    low, high = model.activation_low.cpu()[index], model.activation_high.cpu()[index]
    parts = invert(model, images, Sampling(steps, batch_size=batch_size))
    original = _original_run(model, parts, steps, batch_size)
    rise = torch.zeros(len(index), len(images), steps, dtype=original.dtype)
    t = torch.tensor(model.schedule.respaced(steps)).flip(0)
    for job in jobs(parts, indices, high[:, None], batch_size, model.device):
        own = index[job.prototype]
        for i, step in enumerate(model.sample_steps(job.x_T, job.s, steps, "ddim")):
            s = model.encode(step.x_0).cpu()[torch.arange(len(own)), own]
            rise[job.prototype, job.image, i] = s - original[job.image, own, i]
    curve = rise.mean(1)
    plateau = curve[:, -1]
    visible = plateau > VISIBLE * (high - low)
    t10, t50, t90 = (first_passage(t, curve, share * plateau).where(visible, torch.nan) for share in (0.1, 0.5, 0.9))
    return Emergence(index, t, curve, rise.std(1, correction=0), plateau, t10, t50, t90)


def _original_run(model: PatronusModule, parts: Inverted, steps: int, batch_size: int) -> Float[Tensor, "n m k"]:
    """ŝ(t) of the unedited images."""
    runs = []
    for x_T, s in zip(torch.split(parts.x_T, batch_size), torch.split(parts.s, batch_size), strict=True):
        run = model.sample_steps(x_T.to(model.device), s.to(model.device), steps, "ddim")
        runs.append(torch.stack([model.encode(step.x_0).cpu() for step in run], dim=-1))
    return torch.cat(runs)


def first_passage(t: Int[Tensor, " k"], curve: Float[Tensor, "p k"], level: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """Timestep at which each curve first reaches its level, linear between steps; t_0 if it starts there, else NaN."""
    reached = curve >= level[:, None]
    i = reached.int().argmax(1)
    before = (i - 1).clamp_min(0)
    y_0, y_1 = curve.gather(1, before[:, None])[:, 0], curve.gather(1, i[:, None])[:, 0]
    share = torch.where(i > 0, (level - y_0) / (y_1 - y_0), 0.0)
    times = t[before] + share * (t[i] - t[before])
    return times.where(reached.any(1), torch.nan)


# ---- coarse before fine ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """What `order` found.

    Attributes:
        tau: Kendall's τ_b: 1 if the larger always comes at noisier steps, -1 if the smaller does; NaN if either is the
            same for all.
        p_value: chance of a τ as far from 0 if neither knew of the other; NaN as τ.
        prototypes: how many could be compared.
    """

    tau: float
    p_value: float
    prototypes: int


def order(times: Float[Tensor, " p"], values: Float[Tensor, " p"]) -> Order:
    """Whether prototypes of larger values come at noisier timesteps; with areas of parts: coarse before fine.

    Args:
        times: (p,) timesteps such as t50; NaN where there is none.
        values: (p,) what to compare them with; NaN where it is unknown.
    """
    known = ~(times.isnan() | values.isnan())
    if known.sum() < 2:
        return Order(float("nan"), float("nan"), int(known.sum()))
    found = kendalltau(times[known].numpy(), values[known].numpy())
    return Order(float(found.statistic), float(found.pvalue), int(known.sum()))
