"""Commitment: which steps of sampling decide an edit. It is switched on, or off, in the middle of a run.

Emergence says when a change can be seen in x̂_0. A denoiser that trusts s shows it in its very first prediction and may
still take it back much later, so that here the edit really is taken back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patronus_pl.analysis.editing.changes import chosen
from patronus_pl.analysis.editing.decoding import encode
from patronus_pl.analysis.editing.inverting import Inverted
from patronus_pl.analysis.editing.jobs import jobs
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.analysis.explain.when import (
    VISIBLE,
    Emergence,
    emerged,
    first_passage,
    rise_of,
    traced,
    unedited_run,
)
from patronus_pl.diffusion import Denoiser, NoiseSchedule, samplers
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image


@dataclass(frozen=True)
class Commitment:
    """How much of an edit is decided by which step, for p prototypes and k timesteps. All tensors are on the CPU.

    Attributes:
        prototypes: (p,) their indices.
        t: (k,) timesteps, from the noisiest to the cleanest, which is the last of sampling itself.
        effect: (p,) final effect on s_J of an edit that is on all the time, mean over images.
        until: (p, k) share of the effect that survives when the edit is on from T-1 down to t and is then taken back;
            NaN for a prototype without an effect.
        after: (p, k) share of the effect that comes about when the edit is on in the steps after t only; NaN likewise.
    """

    prototypes: Int[Tensor, " p"]
    t: Int[Tensor, " k"]
    effect: Float[Tensor, " p"]
    until: Float[Tensor, "p k"]
    after: Float[Tensor, "p k"]

    @property
    def decided(self) -> Float[Tensor, "p k"]:
        """Return the share of the effect that is due to the steps down to t: (until + (1 - after)) / 2, shape (p, k).

        It is the mean of what those steps achieve alone and of what is lost without them, which is the Shapley value of
        the earlier of two players. Both are the same where the effects of early and late steps add up.
        """
        return (self.until + 1 - self.after) / 2

    @property
    def t10(self) -> Float[Tensor, " p"]:
        """Return the timestep at which 10 % are decided, shape (p,); NaN for a prototype without an effect."""
        return self._passes(0.1)

    @property
    def t50(self) -> Float[Tensor, " p"]:
        """Return the same for 50 %."""
        return self._passes(0.5)

    @property
    def t90(self) -> Float[Tensor, " p"]:
        """Return the same for 90 %."""
        return self._passes(0.9)

    def _passes(self, level: float) -> Float[Tensor, " p"]:
        return first_passage(self.t, self.decided, torch.full_like(self.effect, level))

    def disagrees(self, curves: Emergence, tolerance: float = 200.0) -> Bool[Tensor, " p"]:
        """Return whether a prototype's t50 of the two differ by more than the tolerance, in timesteps; shape (p,).

        Raises:
            InvalidOptionError: results of different prototypes.
        """
        if not torch.equal(self.prototypes, curves.prototypes):
            raise InvalidOptionError("emergence and commitment are of different prototypes; compute both for the same")
        return (self.t50 - curves.t50).abs() > tolerance


@evaluating
def commitment(
    model: PatronusModule, inverted: Inverted, prototypes: Sequence[int] | None, releases: int, sampling: Sampling
) -> tuple[Commitment, Emergence]:
    """Find when an edit can no longer be taken back, and until when it may still be made.

    For each of `releases` timesteps t, two runs start from the inverted noise: in one the edit is on down to t and then
    off, in the other it is off down to t and then on. Runs share the steps that they have in common. The run in which
    the edit is always on is also that of `emergence`, whose result is returned with no more cost.
    Costs n · p · releases images of `sampling.steps` steps of DDIM each.

    Args:
        model: the model, whose `activation_low` and `activation_high` bound each prototype's range.
        inverted: n images, inverted with the same steps.
        prototypes: p indices; None for all m.
        releases: k, how many t, evenly over the steps; at the last of them the edit has been on all the time.
        sampling: steps and batch size; the sampler is always DDIM.

    Raises:
        InvalidOptionError: fewer than two releases, or more than steps.
    """
    steps, size = sampling.steps, sampling.batch_size
    if not 2 <= releases <= steps:
        raise InvalidOptionError(f"releases is {releases}; choose 2..{steps}, the number of steps")
    grid = model.schedule.respaced(steps)
    taken = [(i + 1) * steps // releases for i in range(releases)]  # steps before the switch
    indices = chosen(model, prototypes)
    index, device = torch.tensor(indices), model.device
    low, high = model.activation_low.cpu()[index], model.activation_high.cpu()[index]
    original = unedited_run(model, inverted, sampling, taken)
    final = encode(model, original.states[-1], size)
    rise = torch.zeros(len(index), len(inverted.s), steps, dtype=final.dtype)
    effects = torch.zeros(2, len(index), len(inverted.s), releases, dtype=final.dtype)  # until, after
    for job in jobs(inverted, indices, high[:, None], size, device):
        own, rows = index[job.prototype], torch.arange(len(job.image))
        run = traced(model, job.x_T, job.s, steps, taken)
        rise[job.prototype, job.image] = rise_of(run, original, own, job.image)
        edited, unedited = model.denoiser_for(job.s), model.denoiser_for(inverted.s[job.image].to(device))
        for i, count in enumerate(taken):
            starts = run.states[i], original.states[i][job.image]
            for way, (start, rest) in enumerate(zip(starts, (unedited, edited), strict=True)):
                x = _finish(rest, start.to(device), model.schedule, grid[: steps - count])
                effects[way, job.prototype, job.image, i] = model.encode(x).cpu()[rows, own] - final[job.image, own]
    until, after = effects.mean(2)
    full = until[:, -1].where(until[:, -1] > VISIBLE * (high - low), torch.nan)[:, None]
    times = torch.tensor([grid[-count] for count in taken])
    return Commitment(index, times, until[:, -1], until / full, after / full), emerged(model, indices, rise)


def _finish(denoiser: Denoiser, x: Image, schedule: NoiseSchedule, rest: Sequence[int]) -> Image:
    """Return the image that the remaining steps make of x; x itself if none remain."""
    return samplers.last(samplers.ddim(denoiser, x, schedule, rest, clip=True)) if rest else x
