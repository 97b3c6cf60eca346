"""When a prototype is decided: how much of it the noisy image alone tells, from pure noise to the clean image."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.analysis.editing.decoding import encode
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion import NoiseSchedule, NoiseSource, Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Image

SHARES = (0.1, 0.5, 0.9)
"""Shares of a prototype's way from unknown to known at which it is timed."""
BOOTSTRAP = 200
"""Resamples of the images for an interval of 95 %."""
FEWEST = 8
"""Images below which a correlation over images says nothing."""


@dataclass(frozen=True)
class Recovery:
    """What `recovery` found, for m prototypes at k noise levels. All on the CPU.

    Attributes:
        t: (k,) timesteps, from pure noise to nearly clean.
        log_snr: (k,) their log ᾱ/(1-ᾱ), increasing, in nats.
        known: (m, k) squared correlation over images of s_j with what is read of it from x_t alone, in [0, 1].
        passed: (m, 3) log-SNR at which `known` passes 10, 50 and 90 % of its way from pure noise to 1; NaN if never.
        low: (m, 3) lower end of a 95 % interval of `passed`, by resampling images.
        high: (m, 3) its upper end.
        redundant: (m,) the same squared correlation at pure noise, where the denoiser is told all other prototypes:
            what those say of j, in whatever way. 0: nothing, 1: all.
    """

    t: Int[Tensor, " k"]
    log_snr: Float[Tensor, " k"]
    known: Float[Tensor, "m k"]
    passed: Float[Tensor, "m 3"]
    low: Float[Tensor, "m 3"]
    high: Float[Tensor, "m 3"]
    redundant: Float[Tensor, " m"]


@evaluating
def recovery(model: PatronusModule, images: Image, sampling: Sampling = Sampling(), levels: int = 24) -> Recovery:
    """Measure when the noisy image alone tells each prototype.

    The denoiser that is told nothing predicts x̂_0 from x_t, and the encoder reads it. All prototypes are read at once,
    so this costs n · levels evaluations, and n · m more for what the other prototypes tell at pure noise.

    Args:
        model: a model that was trained with masks.
        images: (n, c, h, w) in [-1, 1], n ≥ 8; a hundred or more, and typical ones.
        sampling: its seed and batch size are used.
        levels: noise levels, evenly spaced in log-SNR as far as the schedule's timesteps allow.

    Raises:
        InvalidOptionError: a model without masks, too few images, or fewer than two levels.
    """
    if len(images) < FEWEST or levels < 2:
        raise InvalidOptionError(
            f"{len(images)} images and {levels} noise levels are too few to tell when prototypes are decided; give at "
            f"least {FEWEST} images and 2 levels"
        )
    t = spread_timesteps(model.schedule, levels)
    s = encode(model, images, sampling.batch_size)
    read = torch.stack([_read_untold(model, images, int(step), sampling) for step in t])
    log_snr = model.schedule.snr(t.to(model.device)).log().cpu()
    weights = torch.ones(1, len(images))
    chance = torch.Generator().manual_seed(sampling.seed)
    drawn = torch.randint(len(images), (BOOTSTRAP, len(images)), generator=chance)
    resampled = torch.zeros(BOOTSTRAP, len(images)).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float))
    known = squared_correlation(s, read, weights)[0].T
    times = torch.stack([passages(log_snr, each.T) for each in squared_correlation(s, read, resampled)])
    return Recovery(
        t=t,
        log_snr=log_snr,
        known=known,
        passed=passages(log_snr, known),
        low=times.nanquantile(0.025, dim=0),
        high=times.nanquantile(0.975, dim=0),
        redundant=_redundancy(model, images, s, sampling),
    )


def spread_timesteps(schedule: NoiseSchedule, levels: int) -> Int[Tensor, " k"]:
    """Return distinct timesteps about evenly spaced in log-SNR, from T-1 down to 0; at most `levels` of them."""
    log_snr = schedule.snr(torch.arange(schedule.timesteps, device=schedule.beta.device)).log().cpu()
    wanted = torch.linspace(float(log_snr[-1]), float(log_snr[0]), levels)
    nearest = (log_snr[:, None] - wanted).abs().argmin(0).tolist()
    return torch.tensor(sorted(set(nearest), reverse=True))


def timesteps_at(schedule: NoiseSchedule, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the timesteps of given log-SNR, with fractions, between 0 and T-1; NaN where the log-SNR is NaN."""
    steps = np.arange(schedule.timesteps)[::-1]
    known = schedule.snr(torch.arange(schedule.timesteps, device=schedule.beta.device)).log().cpu().numpy()[::-1]
    return torch.from_numpy(np.interp(log_snr.numpy(), known, steps)).to(log_snr)


def _read_untold(model: PatronusModule, images: Image, t: int, sampling: Sampling) -> Float[Tensor, "n m"]:
    """Return the activations of the x̂_0 that the denoiser predicts from x_t when it is told nothing."""
    read = []
    for rows in torch.split(torch.arange(len(images)), sampling.batch_size):
        x, steps = images[rows].to(model.device), torch.full((len(rows),), t, device=model.device)
        noise = NoiseSource(sampling.seed, rows.tolist(), model.device)(x.shape)
        nothing = torch.zeros(len(rows), model.prototypes.count, dtype=torch.bool, device=model.device)
        s = torch.zeros_like(nothing, dtype=x.dtype)
        clean = model.denoiser_for(s, nothing)(model.schedule.add_noise(x, noise, steps), steps)
        read.append(model.encode(clean.clamp(-1, 1)).float().cpu())
    return torch.cat(read)


def _redundancy(
    model: PatronusModule, images: Image, s: Float[Tensor, "n m"], sampling: Sampling
) -> Float[Tensor, " m"]:
    """Return ρ² of s_j with what is read of it when x_t is pure noise and all other prototypes are told."""
    last, found = model.schedule.timesteps - 1, []
    for j in range(s.shape[1]):
        read = []
        for rows in torch.split(torch.arange(len(images)), sampling.batch_size):
            noise = NoiseSource(sampling.seed, rows.tolist(), model.device)((len(rows), *model.image_shape))
            keep = torch.ones(len(rows), s.shape[1], dtype=torch.bool, device=model.device)
            keep[:, j] = False
            steps = torch.full((len(rows),), last, device=model.device)
            clean = model.denoiser_for(s[rows].to(model.device), keep)(noise, steps)
            read.append(model.encode(clean.clamp(-1, 1))[:, j].float().cpu())
        weights = torch.ones(1, len(images))
        found.append(squared_correlation(s[:, j : j + 1], torch.cat(read)[None, :, None], weights)[0, 0, 0])
    return torch.stack(found)


def squared_correlation(
    s: Float[Tensor, "n m"], read: Float[Tensor, "k n m"], weights: Float[Tensor, "r n"]
) -> Float[Tensor, "r k m"]:
    """Return ρ² over images, for each of r weightings of them; 0 where either does not vary.

    Args:
        s: what is to be read.
        read: what was read, at k levels.
        weights: how often each image counts.
    """
    w = (weights / weights.sum(1, keepdim=True)).double()
    x, y = (s - s.mean(0)).double(), (read - read.mean(1, keepdim=True)).double()

    def mean(values: Tensor) -> Tensor:
        return torch.einsum("rn,...nm->r...m", w, values)

    covariance = mean(x * y) - mean(x)[:, None] * mean(y)
    variance = (mean(x * x) - mean(x) ** 2)[:, None] * (mean(y * y) - mean(y) ** 2)
    return (covariance**2 / variance.clamp_min(1e-20)).where(variance > 1e-20, 0.0).float()


def passages(log_snr: Float[Tensor, " k"], known: Float[Tensor, "m k"]) -> Float[Tensor, "m 3"]:
    """Return the log-SNR at which each curve has gone 10, 50 and 90 % of its way from its first value to 1.

    What is known at one level counts as known at all cleaner ones. Between levels it is taken for linear.
    """
    rising = known.cummax(1).values
    share = (rising - rising[:, :1]) / (1 - rising[:, :1]).clamp_min(1e-12)
    found = []
    for level in SHARES:
        reached = share >= level
        i = reached.int().argmax(1).clamp_min(1)[:, None]
        y_0, y_1 = share.gather(1, i - 1)[:, 0], share.gather(1, i)[:, 0]
        x_0, x_1 = log_snr[i[:, 0] - 1], log_snr[i[:, 0]]
        between = x_0 + (level - y_0) / (y_1 - y_0).clamp_min(1e-12) * (x_1 - x_0)
        found.append(between.where(reached.any(1), torch.nan))
    return torch.stack(found, dim=1)
