"""Emergence: at which step of sampling the predicted image x̂_0 shows that a prototype was turned up.

A denoiser that trusts s shows it in its first prediction. `recovery` asks when the noisy image itself tells it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import kendalltau
from torch import Tensor

from patronus_pl.analysis.editing.changes import chosen
from patronus_pl.analysis.editing.inverting import Inverted
from patronus_pl.analysis.editing.jobs import jobs
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Activations, Image

VISIBLE = 0.05
"""An edit whose final effect is below this share of the prototype's range has no plateau to time."""

RESAMPLES = 300
"""Resamples of the prototypes for the interval of a rank correlation."""


@dataclass(frozen=True)
class Emergence:
    """Emergence curves of p prototypes at k timesteps, over n images. All tensors are on the CPU.

    Attributes:
        prototypes: (p,) their indices.
        t: (k,) timesteps, from the noisiest to the cleanest.
        curve: (p, k) ŝ_J(t) of the edited run minus ŝ_J(t) of the unedited run, mean over images.
        band: (p, k) standard deviation of the same over images.
        plateau: (p,) last value of the curve.
        t10: (p,) timestep at which the curve first passes 10 % of its plateau; NaN where there is no plateau.
        t50: (p,) the same for 50 %.
        t90: (p,) the same for 90 %.
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
        """Return the curves in shares of their plateaus, shape (p, k); NaN where there is no plateau."""
        return self.curve / self.plateau.where(~self.t50.isnan(), torch.nan)[:, None]


@evaluating
def emergence(
    model: PatronusModule, inverted: Inverted, prototypes: Sequence[int] | None, sampling: Sampling
) -> Emergence:
    """Encode the predicted clean image again at every step of DDIM, with and without an edit (Weng et al. 2026).

    Both runs start from the same inverted noise: one under the image's own s, one with s_J at the high end of its own
    range. Costs n · (p + 1) images of `sampling.steps` steps each, and as many encodings.

    Args:
        model: the model, whose `activation_low` and `activation_high` bound each prototype's range.
        inverted: n images, inverted with the same steps.
        prototypes: p indices; None for all m.
        sampling: steps and batch size. The sampler is always DDIM, which retraces the states of the inversion.
    """
    indices = chosen(model, prototypes)
    index = torch.tensor(indices)
    low, high = model.activation_low.cpu()[index], model.activation_high.cpu()[index]
    parts = zip(
        torch.split(inverted.x_T, sampling.batch_size), torch.split(inverted.s, sampling.batch_size), strict=True
    )
    original = torch.cat([_shown(model, x_T.to(model.device), s.to(model.device), sampling.steps) for x_T, s in parts])
    rise = torch.zeros(len(index), len(inverted.s), sampling.steps, dtype=original.dtype)
    for job in jobs(inverted, indices, high[:, None], sampling.batch_size, model.device):
        own = index[job.prototype]
        edited = _shown(model, job.x_T, job.s, sampling.steps)[torch.arange(len(own)), own]
        rise[job.prototype, job.image] = edited - original[job.image, own]
    t, curve = torch.tensor(model.schedule.respaced(sampling.steps)).flip(0), rise.mean(1)
    plateau = curve[:, -1]
    visible = plateau > VISIBLE * (high - low)
    t10, t50, t90 = (first_passage(t, curve, share * plateau).where(visible, torch.nan) for share in (0.1, 0.5, 0.9))
    return Emergence(index, t, curve, rise.std(1, correction=0), plateau, t10, t50, t90)


def _shown(model: PatronusModule, x_T: Image, s: Activations, steps: int) -> Float[Tensor, "b m k"]:
    """Return the activations of the predicted x̂_0 at each of the k steps of DDIM."""
    return torch.stack([model.encode(step.x_0).cpu() for step in model.sample_steps(x_T, s, steps, "ddim")], dim=-1)


def first_passage(t: Int[Tensor, " k"], curve: Float[Tensor, "p k"], level: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """Return the timestep at which each curve first reaches its level.

    Between two steps it is interpolated linearly; it is t_0 for a curve that starts at its level or above, and NaN for
    one that never reaches it.

    >>> first_passage(torch.tensor([900, 600, 300]), torch.tensor([[0.0, 0.4, 1.0]]), torch.tensor([0.5]))
    tensor([550.])
    """
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
    """Rank correlation between the timesteps of prototypes and another number of theirs.

    Attributes:
        tau: Kendall's τ_b in [-1, 1]: 1 if the larger number always comes at the noisier step, -1 if the smaller does;
            NaN if the timesteps, or the numbers, are all the same.
        low: lower end of a 95 % interval of τ, by resampling the prototypes; NaN where τ is.
        high: its upper end.
        p_value: chance of a τ as far from 0 if the two were independent; NaN where τ is.
        prototypes: how many prototypes have both numbers.
    """

    tau: float
    low: float
    high: float
    p_value: float
    prototypes: int


def order(times: Float[Tensor, " p"], values: Float[Tensor, " p"], seed: int = 0) -> Order:
    """Test whether prototypes with larger values come at noisier timesteps: with sizes of edits, coarse before fine.

    Args:
        times: (p,) timesteps such as t50; NaN where a prototype has none.
        values: (p,) numbers to compare them with; NaN where a number is unknown.
        seed: seed of the resampling.
    """
    known = ~(times.isnan() | values.isnan())
    x, y = times[known].numpy(), values[known].numpy()
    if len(x) < 2:
        return Order(math.nan, math.nan, math.nan, math.nan, len(x))
    found = kendalltau(x, y)
    drawn = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    taus = np.array([kendalltau(x[rows], y[rows]).statistic for rows in drawn])
    low, high = np.nanquantile(taus, (0.025, 0.975)) if np.isfinite(taus).any() else (math.nan, math.nan)
    return Order(float(found.statistic), float(low), float(high), float(found.pvalue), len(x))
