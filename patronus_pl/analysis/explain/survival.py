"""Which steps an edit needs: the causal version of emergence curves. It is switched on, or off, in mid-air.

An emergence curve says when a change can be seen in x̂_0. A denoiser that trusts s shows it in its very first
prediction, and may still take it back much later; so here the edit really is taken back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patronus_pl.analysis.editing.changes import chosen
from patronus_pl.analysis.editing.decoding import decode, encode
from patronus_pl.analysis.editing.inverting import invert
from patronus_pl.analysis.editing.jobs import jobs
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.analysis.explain.when import VISIBLE, Emergence, first_passage
from patronus_pl.diffusion import Denoiser, NoiseSchedule, Sampling, samplers
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image


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
    parts = invert(model, images, Sampling(steps, batch_size=batch_size))
    original = encode(
        model, decode(model, parts.x_T, parts.s, Sampling(steps, "ddim", batch_size=batch_size)), batch_size
    )
    effects = torch.zeros(len(index), len(images), 1 + len(windows), dtype=original.dtype)
    for job in jobs(parts, indices, high[:, None], batch_size, model.device):
        own, rows = index[job.prototype], torch.arange(len(job.image))
        edited, unedited = model.denoiser_for(job.s), model.denoiser_for(parts.s[job.image].to(model.device))
        for i, span in enumerate([(0, last), *windows]):
            denoise = _switched(edited, unedited, span)
            x = samplers.last(samplers.ddim(denoise, job.x_T, model.schedule, steps, clip=True))
            effects[job.prototype, job.image, i] = model.encode(x).cpu()[rows, own] - original[job.image, own]
    effect = effects.mean(1)
    shares = effect[:, 1:] / _visible(effect[:, 0], high - low)[:, None]
    return Survival(index, torch.tensor(windows), effect[:, 0], shares)


def _switched(edited: Denoiser, unedited: Denoiser, span: tuple[int, int]) -> Denoiser:
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return (edited if span[0] <= int(t[0]) <= span[1] else unedited)(x_t, t)

    return denoise


def _visible(effect: Float[Tensor, " p"], span: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    return effect.where(effect > VISIBLE * span, torch.nan)


# ---- until when, and from when ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Commitment:
    """What `commitment` found, for p prototypes and k timesteps. All on the CPU.

    Attributes:
        prototypes: (p,) their indices.
        t: (k,) timesteps, from the noisiest to the cleanest, which is the last of sampling itself.
        effect: (p,) final effect on s_J of an edit that is on all the time, mean over images.
        until: (p, k) share of it that survives when the edit is on from T-1 down to t, and then taken back; NaN without
            an effect.
        after: (p, k) share of it that comes about when the edit is on in the steps after t only; NaN without an effect.
    """

    prototypes: Int[Tensor, " p"]
    t: Int[Tensor, " k"]
    effect: Float[Tensor, " p"]
    until: Float[Tensor, "p k"]
    after: Float[Tensor, "p k"]

    @property
    def decided(self) -> Float[Tensor, "p k"]:
        """(p, k) share of the effect that is due to the steps down to t: (until + (1 - after)) / 2.

        What those steps achieve alone, and what is lost without them, on average: the Shapley value of the earlier of
        two players. Both are the same where the effects of early and late steps add up.
        """
        return (self.until + 1 - self.after) / 2

    @property
    def t10(self) -> Float[Tensor, " p"]:
        """(p,) timestep at which 10 % are decided; NaN without an effect."""
        return self._passes(0.1)

    @property
    def t50(self) -> Float[Tensor, " p"]:
        """(p,) 50 %."""
        return self._passes(0.5)

    @property
    def t90(self) -> Float[Tensor, " p"]:
        """(p,) 90 %."""
        return self._passes(0.9)

    def _passes(self, level: float) -> Float[Tensor, " p"]:
        return first_passage(self.t, self.decided, torch.full_like(self.effect, level))

    def disagrees(self, curves: Emergence, tolerance: float = 200.0) -> Bool[Tensor, " p"]:
        """(p,) whether what shows and what decides have their t50 further apart than the tolerance.

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
    """When an edit can no longer be taken back, and until when it may still be made.

    What `survival` finds in the windows (t, T-1) and (0, t - 1) at half the price, as runs share what they have in
    common. Costs n · p · releases images of `steps` steps of DDIM each.

    Args:
        model: the model, whose `activation_low` and `activation_high` bound each prototype's range.
        images: (n, c, h, w) in [-1, 1].
        prototypes: which; None for all m.
        releases: how many t, evenly over the steps, at most as many; at the last, nothing is taken back.
        steps: of inversion and DDIM.
        batch_size: images at a time.

    Raises:
        InvalidOptionError: fewer than two releases.
    """
    if not 2 <= releases <= steps:
        raise InvalidOptionError(f"releases is {releases}; choose 2..{steps}, the number of steps")
    grid = model.schedule.respaced(steps)
    taken = [(i + 1) * steps // releases for i in range(releases)]  # steps before the switch
    indices = chosen(model, prototypes)
    index = torch.tensor(indices)
    low, high = model.activation_low.cpu()[index], model.activation_high.cpu()[index]
    parts = invert(model, images, Sampling(steps, batch_size=batch_size))
    runs = zip(torch.split(parts.x_T, batch_size), torch.split(parts.s, batch_size), strict=True)
    schedule, device = model.schedule, model.device
    untouched = torch.cat(
        [_states(model.denoiser_for(s.to(device)), x_T.to(device), schedule, grid, taken) for x_T, s in runs], dim=1
    )
    original = encode(model, untouched[-1], batch_size)
    effects = torch.zeros(2, len(index), len(images), releases, dtype=original.dtype)  # until, after
    for job in jobs(parts, indices, high[:, None], batch_size, device):
        own, rows = index[job.prototype], torch.arange(len(job.image))
        edited, unedited = model.denoiser_for(job.s), model.denoiser_for(parts.s[job.image].to(device))
        states = _states(edited, job.x_T, schedule, grid, taken), untouched[:, job.image]
        for way, (start, rest) in enumerate(zip(states, (unedited, edited), strict=True)):
            for i, count in enumerate(taken):
                x = _finish(rest, start[i].to(device), schedule, grid[: steps - count])
                effects[way, job.prototype, job.image, i] = model.encode(x).cpu()[rows, own] - original[job.image, own]
    until, after = effects.mean(2)
    full = _visible(until[:, -1], high - low)[:, None]
    return Commitment(index, torch.tensor([grid[-count] for count in taken]), until[:, -1], until / full, after / full)


def _states(
    denoise: Denoiser, x_T: Image, schedule: NoiseSchedule, grid: Sequence[int], taken: Sequence[int]
) -> Float[Tensor, "k b c h w"]:
    """The state after so many steps of DDIM; after the last of all, the image."""
    run = samplers.ddim(denoise, x_T, schedule, grid, clip=True)
    return torch.stack([step.x_next.cpu() for count, step in enumerate(run, start=1) if count in taken])


def _finish(denoise: Denoiser, x: Image, schedule: NoiseSchedule, rest: Sequence[int]) -> Image:
    """The image that the remaining steps make of x."""
    return samplers.last(samplers.ddim(denoise, x, schedule, rest, clip=True)) if rest else x
