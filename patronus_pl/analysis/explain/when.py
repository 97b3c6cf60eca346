"""Emergence: at which step of sampling the predicted image x̂_0 shows that a prototype was turned up.

`commitment` asks another question: which steps decide the edit.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    original = unedited_run(model, inverted, sampling)
    rise = torch.zeros(len(indices), len(inverted.s), sampling.steps, dtype=original.shown.dtype)
    for job in jobs(inverted, indices, model.activation_high.cpu()[indices, None], sampling.batch_size, model.device):
        run = traced(model, job.x_T, job.s, sampling.steps)
        rise[job.prototype, job.image] = rise_of(run, original, torch.tensor(indices)[job.prototype], job.image)
    return emerged(model, indices, rise)


class Traced(NamedTuple):
    """A run of DDIM over b images."""

    shown: Float[Tensor, "b m k"]
    """Activations of the prediction x̂_0 at each of the k steps."""
    states: list[Image]
    """The states that were to be kept, in the order of the steps; the last step leads to the image itself."""


def traced(model: PatronusModule, x_T: Image, s: Activations, steps: int, kept: Collection[int] = ()) -> Traced:
    """Run DDIM and encode what it predicts at every step.

    Args:
        model: the model.
        x_T: (b, c, h, w) noise.
        s: (b, m) activations.
        steps: k.
        kept: after how many steps the state is kept.
    """
    shown, states = [], []
    for count, step in enumerate(model.sample_steps(x_T, s, steps, "ddim"), start=1):
        shown.append(model.encode(step.x_0).cpu())
        if count in kept:
            states.append(step.x_next.cpu())
    return Traced(torch.stack(shown, dim=-1), states)


def unedited_run(model: PatronusModule, inverted: Inverted, sampling: Sampling, kept: Collection[int] = ()) -> Traced:
    """Run DDIM from the inverted noise of n images under their own activations, a batch at a time."""
    pairs = zip(
        torch.split(inverted.x_T, sampling.batch_size), torch.split(inverted.s, sampling.batch_size), strict=True
    )
    runs = [traced(model, x_T.to(model.device), s.to(model.device), sampling.steps, kept) for x_T, s in pairs]
    states = [torch.cat(parts) for parts in zip(*(run.states for run in runs), strict=True)]
    return Traced(torch.cat([run.shown for run in runs]), states)


def rise_of(edited: Traced, original: Traced, own: Int[Tensor, " b"], image: Int[Tensor, " b"]) -> Float[Tensor, "b k"]:
    """Return ŝ_J(t) of b edited runs minus that of the unedited runs of the same images, shape (b, k).

    Args:
        edited: the b edited runs.
        original: the unedited runs of all images.
        own: (b,) J, the prototype that was turned up.
        image: (b,) rows of the images.
    """
    return edited.shown[torch.arange(len(own)), own] - original.shown[image, own]


def emerged(model: PatronusModule, indices: Sequence[int], rise: Float[Tensor, "p n k"]) -> Emergence:
    """Summarise the rises of p prototypes in n images, and find when each passes 10, 50 and 90 % of its plateau."""
    index = torch.tensor(indices)
    low, high = model.activation_low.cpu()[index], model.activation_high.cpu()[index]
    t = torch.tensor(model.schedule.respaced(rise.shape[-1])).flip(0)
    curve = rise.mean(1)
    plateau = curve[:, -1]
    visible = plateau > VISIBLE * (high - low)
    t10, t50, t90 = (first_passage(t, curve, share * plateau).where(visible, torch.nan) for share in (0.1, 0.5, 0.9))
    return Emergence(index, t, curve, rise.std(1, correction=0), plateau, t10, t50, t90)


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
        p_value: chance of a τ as far from 0 if the two were independent; NaN where τ is.
        prototypes: how many prototypes have both numbers.
    """

    tau: float
    p_value: float
    prototypes: int


def order(times: Float[Tensor, " p"], values: Float[Tensor, " p"]) -> Order:
    """Test whether prototypes with larger values come at noisier timesteps: with areas, coarse before fine.

    Args:
        times: (p,) timesteps such as t50; NaN where a prototype has none.
        values: (p,) numbers to compare them with; NaN where a number is unknown.
    """
    known = ~(times.isnan() | values.isnan())
    if known.sum() < 2:
        return Order(float("nan"), float("nan"), int(known.sum()))
    found = kendalltau(times[known].numpy(), values[known].numpy())
    return Order(float(found.statistic), float(found.pvalue), int(known.sum()))
