"""When a prototype emerges: what the prediction x̂_0 shows at each step, and which steps an edit needs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patronus_pl.analysis.edit import Parts, chosen, encode, jobs, put_together, take_apart
from patronus_pl.analysis.evaluation import evaluating
from patronus_pl.diffusion import Denoise, samplers
from patronus_pl.errors import InvalidOptionError
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
    parts = take_apart(model, images, steps, batch_size)
    original = _original_run(model, parts, steps, batch_size)
    rise = torch.zeros(len(index), len(images), steps)
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


def _original_run(model: PatronusModule, parts: Parts, steps: int, batch_size: int) -> Float[Tensor, "n m k"]:
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


# ---- the causal version ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Survival:
    """What `survival` found, for p prototypes and w windows of timesteps. All on the CPU.

    Attributes:
        prototypes: (p,) their indices.
        windows: (w, 2) first and last timestep of each, both included.
        effect: (p,) final effect on s_J of an edit that is on all the time, mean over images.
        share: (p, w) share of it that survives when the edit is on inside the window only; NaN without an effect.
    """

    prototypes: Int[Tensor, " p"]
    windows: Int[Tensor, "w 2"]
    effect: Float[Tensor, " p"]
    share: Float[Tensor, "p w"]


@evaluating
def survival(
    model: PatronusModule,
    images: Image,
    windows: Sequence[tuple[int, int]],
    prototypes: Sequence[int] | None = None,
    steps: int = 20,
    batch_size: int = 64,
) -> Survival:
    """Switch an edit on inside a window of timesteps only, and measure how much of its final effect survives.

    Outside the window the denoiser gets the image's own s. Costs n · p · (w + 1) images of `steps` steps of DDIM each.

    Args:
        model: the model, whose `activation_low` and `activation_high` bound each prototype's range.
        images: (n, c, h, w) in [-1, 1].
        windows: (first, last) timesteps, both included.
        prototypes: which; None for all m.
        steps: of inversion and DDIM.
        batch_size: images at a time.

    Raises:
        InvalidOptionError: no window, or one that does not lie in 0..T-1.
    """
    last = model.schedule.timesteps - 1
    if not windows:
        raise InvalidOptionError("there are no windows; give at least one (first, last)")
    for span in windows:
        if not 0 <= span[0] <= span[1] <= last:
            raise InvalidOptionError(f"window {span} does not lie in 0..{last}; give (first, last) with first <= last")
    indices = chosen(model, prototypes)
    index = torch.tensor(indices)
    low, high = model.activation_low.cpu()[index], model.activation_high.cpu()[index]
    parts = take_apart(model, images, steps, batch_size)
    original = encode(model, put_together(model, parts.x_T, parts.s, steps, "ddim", batch_size), batch_size)
    effects = torch.zeros(len(index), len(images), 1 + len(windows))
    for job in jobs(parts, indices, high[:, None], batch_size, model.device):
        own, rows = index[job.prototype], torch.arange(len(job.image))
        edited, unedited = model.denoiser_for(job.s), model.denoiser_for(parts.s[job.image].to(model.device))
        for i, span in enumerate([(0, last), *windows]):
            denoise = _switched(edited, unedited, span)
            x = samplers.last(samplers.ddim(denoise, job.x_T, model.schedule, steps, clip=True))
            effects[job.prototype, job.image, i] = model.encode(x).cpu()[rows, own] - original[job.image, own]
    effect = effects.mean(1)
    full = effect[:, 0].where(effect[:, 0] > VISIBLE * (high - low), torch.nan)
    return Survival(index, torch.tensor(windows), effect[:, 0], effect[:, 1:] / full[:, None])


def _switched(edited: Denoise, unedited: Denoise, span: tuple[int, int]) -> Denoise:
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return (edited if span[0] <= int(t[0]) <= span[1] else unedited)(x_t, t)

    return denoise


@dataclass(frozen=True)
class Commitment:
    """What `commitment` found, for p prototypes and k timesteps. All on the CPU.

    Attributes:
        prototypes: (p,) their indices.
        t: (k,) last timestep with the edit on, from the noisiest to the cleanest, which is that of sampling itself.
        effect: (p,) final effect on s_J of an edit that is on all the time, mean over images.
        share: (p, k) share of it that remains when the edit is taken back after t; NaN without an effect.
        t10: (p,) timestep after which 10 % of the effect remains; NaN without an effect.
        t50: (p,) 50 %.
        t90: (p,) 90 %.
    """

    prototypes: Int[Tensor, " p"]
    t: Int[Tensor, " k"]
    effect: Float[Tensor, " p"]
    share: Float[Tensor, "p k"]
    t10: Float[Tensor, " p"]
    t50: Float[Tensor, " p"]
    t90: Float[Tensor, " p"]

    def disagrees(self, curves: Emergence, tolerance: float = 200.0) -> Bool[Tensor, " p"]:
        """(p,) whether what shows and what lasts have their t50 further apart than the tolerance.

        A denoiser that trusts s shows an edit in its very first prediction, and may still take it back much later.

        Raises:
            InvalidOptionError: results of different prototypes.
        """
        if not torch.equal(self.prototypes, curves.prototypes):
            raise InvalidOptionError("emergence and commitment are of different prototypes; compute both for the same")
        return (self.t50 - curves.t50).abs() > tolerance


@evaluating
def commitment(
    model: PatronusModule,
    images: Image,
    prototypes: Sequence[int] | None = None,
    releases: int = 10,
    steps: int = 20,
    batch_size: int = 64,
) -> Commitment:
    """When an edit can no longer be taken back: on from T-1 down to t, off from there.

    Emergence curves show when a change is visible in x̂_0; this shows when it lasts. `survival` under windows
    (t, T-1) for growing windows; costs n · p · (releases + 1) images of `steps` steps of DDIM each.

    Args:
        model: the model, whose `activation_low` and `activation_high` bound each prototype's range.
        images: (n, c, h, w) in [-1, 1].
        prototypes: which; None for all m.
        releases: how many t, evenly over the steps, at most as many; the last is the edit that is never taken back.
        steps: of inversion and DDIM.
        batch_size: images at a time.

    Raises:
        InvalidOptionError: fewer than two releases.
    """
    if not 2 <= releases <= steps:
        raise InvalidOptionError(f"releases is {releases}; choose 2..{steps}, the number of steps")
    grid = model.schedule.respaced(steps)[::-1]
    t = [grid[(i + 1) * steps // releases - 1] for i in range(releases)]
    windows = [(first, model.schedule.timesteps - 1) for first in t[:-1]]
    found = survival(model, images, windows, prototypes, steps, batch_size)
    whole = torch.where(found.share[:, :1].isnan(), torch.nan, 1.0)  # the last release is the edit itself
    share, times = torch.cat([found.share, whole], dim=1), torch.tensor(t)
    passages = [first_passage(times, share, torch.full_like(found.effect, level)) for level in (0.1, 0.5, 0.9)]
    return Commitment(found.prototypes, times, found.effect, share, *passages)
