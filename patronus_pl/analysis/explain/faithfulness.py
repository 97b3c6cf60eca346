"""Faithfulness: whether a picture follows an edit of its activations, there and in nothing else."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from patronus_pl.analysis.disk_array import DiskArray
from patronus_pl.analysis.editing.inverting import PSNR_FLOOR
from patronus_pl.analysis.editing.jobs import TurnedUp, jobs
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.analysis.explain.where import locate
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import psnr
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_bytes
from patronus_pl.types import Image

UNUSED = 0.1
"""Slope of an edit below which a prototype is unused."""


@dataclass(frozen=True)
class Faithfulness:
    """How well pictures follow edits, for p of the m prototypes on n images. NaN for a prototype without a range.

    Attributes:
        prototypes: (p,) their indices.
        requested: (p, v) the activations asked for: from the low to the high end of the prototype's own range.
        realised: (p, v) those of the decoded images, encoded again; mean over images.
        slope: (p,) (realised(high) - realised(low)) / (high - low), mean over images: 1 is in full, 0 is no effect.
        rank_correlation: (p,) Spearman's, requested against realised, mean over images; 0 where nothing changes.
        leakage: (p, m) how far prototype k moves for each unit of prototype j, both in their standard deviations:
            mean |Δs_k| / σ_k ÷ requested |Δs_j| / σ_j. The entry of j itself is about its slope.
        inside_box: (p,) share of |x(high) - x(low)|² inside the edited prototype's box in x(high), mean over images;
            NaN where nothing changes.
        box_share: (p,) share of the image that this box covers: what `inside_box` would be by chance.
        size: (p,) visible size of the edit, ‖x(high) - x(low)‖² summed over pixels and channels, mean over images.
        round_trip_psnr: (n,) of each image decoded under its own activations, in dB.
        flagged: (n,) whether that is below `PSNR_FLOOR`.
        pictures: (p, kept, v, c, h, w) bytes: the edited images that were to be kept, in a file: `pictures[p]` reads
            those of the p-th prototype.
    """

    prototypes: Int[Tensor, " p"]
    requested: Float[Tensor, "p v"]
    realised: Float[Tensor, "p v"]
    slope: Float[Tensor, " p"]
    rank_correlation: Float[Tensor, " p"]
    leakage: Float[Tensor, "p m"]
    inside_box: Float[Tensor, " p"]
    box_share: Float[Tensor, " p"]
    size: Float[Tensor, " p"]
    round_trip_psnr: Float[Tensor, " n"]
    flagged: Bool[Tensor, " n"]
    pictures: DiskArray

    @property
    def unused(self) -> Bool[Tensor, " p"]:
        """Return whether the slope is below 0.1, so that the denoiser hardly heeds the prototype; shape (p,)."""
        return self.slope < UNUSED

    @property
    def leakage_mean(self) -> Float[Tensor, " p"]:
        """Return the mean of the leakage over the other prototypes, shape (p,); NaN if there is no other."""
        return self._others().nanmean(1)

    @property
    def leakage_median(self) -> Float[Tensor, " p"]:
        """Return the median of the leakage over the other prototypes, shape (p,); NaN if there is no other."""
        return self._others().nanquantile(0.5, dim=1)

    def _others(self) -> Float[Tensor, "p m"]:
        return self.leakage.scatter(1, self.prototypes[:, None], torch.nan)

    def summary(self, live: Bool[Tensor, " m"] | None = None) -> dict[str, int | float]:
        """Return medians over the (live) prototypes, the median round trip and the flagged images as plain numbers."""
        rows = torch.ones_like(self.slope, dtype=torch.bool) if live is None else live.cpu()[self.prototypes]
        names = ("slope", "rank_correlation", "leakage_mean", "leakage_median", "inside_box", "box_share")
        return {
            **{name: float(getattr(self, name)[rows].nanquantile(0.5)) for name in names},
            "round_trip_psnr": float(self.round_trip_psnr.quantile(0.5)),
            "flagged": int(self.flagged.sum()),
            "images": len(self.flagged),
        }


@evaluating
def faithfulness(
    model: PatronusModule,
    turned_up: TurnedUp,
    levels: int = 5,
    sampling: Sampling = Sampling(),
    keep: int = 0,
) -> Faithfulness:
    """Move each prototype through its own range, decode from the inverted noise, and encode again.

    The high end is `turned_up` already; the other values cost n · p · (levels - 1) images of `sampling.steps` steps,
    and twice that under guidance, which is that of `turned_up`.

    Args:
        model: the model, whose `activation_low` and `activation_high` are the 2nd and 98th percentile of its data.
        turned_up: p prototypes turned up in n images, a dozen or two.
        levels: values from the low to the high end, evenly spaced; at least 2.
        sampling: steps, sampler and batch size, those of `turned_up`.
        keep: how many images' pictures are kept, the first ones.

    Raises:
        InvalidOptionError: fewer than two levels.
    """
    if levels < 2:
        raise InvalidOptionError(f"levels is {levels}; to move a prototype takes at least 2")
    index = turned_up.prototypes
    low, high = model.activation_low.cpu()[index], model.activation_high.cpu()[index]
    values = low[:, None] + torch.linspace(0, 1, levels) * (high - low)[:, None]
    moved = _moved(model, turned_up, values, sampling, keep)
    own = moved.realised[torch.arange(len(index)), :, :, index]
    swing = moved.realised[:, :, -1] - moved.realised[:, :, 0]
    quality = psnr(turned_up.unedited, turned_up.inverted.images)
    return Faithfulness(
        prototypes=index,
        requested=values,
        realised=own.mean(1),
        slope=(own[:, :, -1] - own[:, :, 0]).mean(1) / _span(low, high),
        rank_correlation=rank_correlation(own).mean(1).where(high > low, torch.nan),
        leakage=_leakage(swing, _deviation(model), index, _span(low, high)),
        inside_box=moved.inside.nanmean(1),
        box_share=moved.area.mean(1),
        size=moved.size.mean(1),
        round_trip_psnr=quality,
        flagged=quality < PSNR_FLOOR,
        pictures=moved.pictures,
    )


class _Moved(NamedTuple):
    """What is kept of p prototypes that are moved through v values in n images."""

    realised: Float[Tensor, "p n v m"]
    pictures: DiskArray
    inside: Float[Tensor, "p n"]
    area: Float[Tensor, "p n"]
    size: Float[Tensor, "p n"]


def _moved(
    model: PatronusModule, turned_up: TurnedUp, values: Float[Tensor, "p v"], sampling: Sampling, keep: int
) -> _Moved:
    """Decode every prototype at every value in every image; the last value is turned up already."""
    index, inverted, (p, v) = turned_up.prototypes, turned_up.inverted, values.shape
    n, shape = len(inverted.s), inverted.images.shape[1:]
    realised = torch.cat([torch.zeros(p, n, v - 1, model.prototypes.count), turned_up.s[:, :, None]], dim=2)
    pictures = DiskArray((p, min(keep, n), v, *shape))
    inside, area, size = torch.zeros(3, p, n).unbind()
    for job in jobs(inverted, index.tolist(), values[:, :-1], sampling.batch_size, model.device):
        x = model.decode(job.x_T, job.s, sampling.steps, sampling.sampler, base=job.base, guidance=turned_up.guidance)
        at = job.prototype, job.image
        realised[job.prototype, job.image, :-1] = model.encode(x).to(realised).reshape(-1, v - 1, realised.shape[-1])
        pairs = list(zip(job.prototype.tolist(), job.image.tolist(), strict=True))
        highest = torch.stack([turned_up.pictures[pair] for pair in pairs])
        x = torch.cat([x.cpu().reshape(-1, v - 1, *shape), highest[:, None]], dim=1)
        for (row, k), edited in zip(pairs, as_bytes(x), strict=True):
            if k < keep:
                pictures[row, k] = edited
        size[at] = (highest - x[:, 0]).square().flatten(1).sum(1)
        inside[at], area[at] = _inside_box(model, x[:, 0], highest, index[job.prototype], sampling.batch_size)
    return _Moved(realised, pictures, inside, area, size)


def _span(low: Float[Tensor, " p"], high: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """Return the width of each range; NaN where there is none to move in."""
    return torch.where(high > low, high - low, torch.nan)


def _leakage(
    swing: Float[Tensor, "p n m"], sigma: Float[Tensor, " m"], index: Int[Tensor, " p"], span: Float[Tensor, " p"]
) -> Float[Tensor, "p m"]:
    """Return mean |Δs_k| / σ_k ÷ requested |Δs_j| / σ_j, the mean over images."""
    return swing.abs().mean(1) / sigma / (span / sigma[index])[:, None]


NORMAL_RANGE = 4.107
"""Width of a normal distribution from its 2nd to its 98th percentile, in standard deviations."""


def _deviation(model: PatronusModule) -> Float[Tensor, " m"]:
    """Return σ of each prototype, shape (m,).

    A model that does not standardise keeps no σ; it is then that of a normal distribution with the same range.
    """
    if model.prototypes.standardise:
        return model.prototypes.std.cpu()
    return (model.activation_high - model.activation_low).cpu() / NORMAL_RANGE


def _inside_box(
    model: PatronusModule, low: Image, high: Image, prototypes: Int[Tensor, " k"], batch_size: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Return the share of the squared difference in the edited prototype's box, and that of the image in the box."""
    height, width = high.shape[-2:]
    box = locate(model, high, batch_size).box[torch.arange(len(prototypes)), prototypes]
    top, left, bottom, right = box[:, :, None].unbind(1)
    rows, cols = torch.arange(height), torch.arange(width)
    mask = ((rows >= top) & (rows < bottom))[:, :, None] & ((cols >= left) & (cols < right))[:, None]
    change = (high - low).square().sum(1).cpu()
    return (change * mask).sum((1, 2)) / change.sum((1, 2)), mask.float().mean((1, 2))


def rank_correlation(values: Float[Tensor, "*shape v"]) -> Float[Tensor, "*shape"]:
    """Return Spearman's correlation of values with their order; ties have the mean rank, constant values give 0.

    >>> round(rank_correlation(torch.tensor([1.0, 3.0, 7.0])).item(), 4)
    1.0
    """
    ranks = torch.from_numpy(rankdata(values.numpy(), axis=-1)).float()
    order = torch.arange(values.shape[-1]).float()
    x, y = ranks - ranks.mean(-1, keepdim=True), order - order.mean()
    correlation: Tensor = (x @ y) / (x.norm(dim=-1) * y.norm()).clamp_min(1e-12)
    return correlation
