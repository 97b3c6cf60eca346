"""When a prototype emerges: what the prediction x̂_0 shows at each step, and which steps an edit needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patronus_pl.analysis.edit import Parts, chosen, encode, jobs, put_together, take_apart
from patronus_pl.analysis.evaluation import evaluating
from patronus_pl.diffusion import samplers
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image, Timesteps

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
    steps: int = 50,
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
class CausalWindows:
    """What `causal_windows` found, for p prototypes and w windows of timesteps. All on the CPU.

    Attributes:
        prototypes: (p,) their indices.
        windows: (w, 2) first and last timestep of each, both included.
        effect: (p,) final effect on s_J of an edit that is on all the time, mean over images.
        survives: (p, w) share of it that survives when the edit is on inside the window only; NaN without an effect.
        t50: (p,) where the shares, added up from the noisiest window on, pass half of their sum; NaN without an effect.
    """

    prototypes: Int[Tensor, " p"]
    windows: Int[Tensor, "w 2"]
    effect: Float[Tensor, " p"]
    survives: Float[Tensor, "p w"]
    t50: Float[Tensor, " p"]

    def disagrees(self, curves: Emergence, tolerance: float | None = None) -> Bool[Tensor, " p"]:
        """(p,) whether both t50 exist and lie further apart than the tolerance; None: the widest window."""
        if not torch.equal(self.prototypes, curves.prototypes):
            raise InvalidOptionError("the two results are of different prototypes; compute both for the same")
        widest = float((self.windows[:, 1] - self.windows[:, 0] + 1).max())
        return (self.t50 - curves.t50).abs() > (widest if tolerance is None else tolerance)


@evaluating
def causal_windows(
    model: PatronusModule,
    images: Image,
    prototypes: Sequence[int] | None = None,
    windows: int | Sequence[tuple[int, int]] = 5,
    steps: int = 50,
    batch_size: int = 64,
) -> CausalWindows:
    """Switch an edit on inside a window of timesteps only, and measure how much of its final effect survives.

    Emergence curves show when a change becomes visible in x̂_0; this shows which steps make it last. Costs
    n · p · (w + 1) images of `steps` steps of DDIM each.

    Args:
        model: the model, whose `activation_low` and `activation_high` bound each prototype's range.
        images: (n, c, h, w) in [-1, 1].
        prototypes: which; None for all m.
        windows: (first, last) timesteps, both included, the noisiest window first; a number cuts 0..T-1 into as many
            equal ones.
        steps: of inversion and DDIM.
        batch_size: images at a time.

    Raises:
        InvalidOptionError: no window, or one that holds no timestep of the model.
    """
    indices = chosen(model, prototypes)
    index = torch.tensor(indices)
    low, high = model.activation_low.cpu()[index], model.activation_high.cpu()[index]
    spans = _windows(model, windows)
    parts = take_apart(model, images, steps, batch_size)
    original = encode(model, put_together(model, parts.x_T, parts.s, steps, "ddim", batch_size), batch_size)
    effects = torch.zeros(len(index), len(images), 1 + len(spans))
    always = (0, model.schedule.timesteps - 1)
    for job in jobs(parts, indices, high[:, None], batch_size, model.device):
        own, rows = index[job.prototype], torch.arange(len(job.image))
        before = parts.s[job.image].to(model.device)
        for i, span in enumerate((always, *spans)):
            denoise = _switched(model.denoiser_for(job.s), model.denoiser_for(before), span)
            x = samplers.last(samplers.ddim(denoise, job.x_T, model.schedule, steps, clip=True))
            effects[job.prototype, job.image, i] = model.encode(x).cpu()[rows, own] - original[job.image, own]
    effect = effects.mean(1)
    full = effect[:, 0].where(effect[:, 0] > VISIBLE * (high - low), torch.nan)
    survives = effect[:, 1:] / full[:, None]
    return CausalWindows(index, torch.tensor(spans), effect[:, 0], survives, _half(torch.tensor(spans), survives))


def _windows(model: PatronusModule, windows: int | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    total = model.schedule.timesteps
    if isinstance(windows, int):
        edges = [total * i // max(windows, 1) for i in range(windows + 1)]
        windows = [(a, b - 1) for a, b in pairwise(edges)][::-1]
    for first, last in windows:
        if not 0 <= first <= last < total:
            raise InvalidOptionError(f"window {first}..{last} holds no timestep of 0..{total - 1}; give first <= last")
    if not windows:
        raise InvalidOptionError("there are no windows; give at least one")
    return [(int(first), int(last)) for first, last in windows]


def _switched(
    edited: Callable[[Image, Timesteps], Image], original: Callable[[Image, Timesteps], Image], span: tuple[int, int]
) -> Callable[[Tensor, Tensor], Tensor]:
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return (edited if span[0] <= int(t[0]) <= span[1] else original)(x_t, t)

    return denoise


def _half(windows: Int[Tensor, "w 2"], survives: Float[Tensor, "p w"]) -> Float[Tensor, " p"]:
    """Where the positive shares, each spread evenly over its window, have added up to half of their sum."""
    share = survives.clamp_min(0)
    total = share.sum(1, keepdim=True)
    below = share.cumsum(1)
    i = (below >= total / 2).int().argmax(1, keepdim=True)
    inside = (total / 2 - (below - share).gather(1, i)) / share.gather(1, i)
    first, last = windows[i[:, 0]].unbind(1)
    return last - inside[:, 0] * (last + 1 - first) + 0.5
