"""Series of edited pictures: one image under several activations, as PNG files, one grid and a table."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image as PillowImage
from torch import Tensor

from patronus_pl.analysis.editing.changes import Change, set_activations
from patronus_pl.analysis.editing.decoding import decode, encode, interpolate
from patronus_pl.analysis.editing.inverting import PSNR_FLOOR, Inverted, invert
from patronus_pl.analysis.pages.figures import image_grid
from patronus_pl.diffusion import Sampling, weights_of_rows
from patronus_pl.metrics import psnr
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_bytes, as_floats
from patronus_pl.types import Activations, Image, ImageBytes

COLUMNS = (
    *("file", "id", "edit", "prototype", "edited", "guidance"),
    *("original", "unedited", "requested", "realised", "change", "round_trip_psnr", "flagged"),
)


class Variant(NamedTuple):
    """Changes that are made to every image, and their name."""

    name: str
    changes: tuple[Change, ...]


class Series(NamedTuple):
    """v pictures of one image, with the activations asked for and those found. All tensors are on the CPU."""

    kind: str
    """Series of one kind have the same names and share a grid."""
    image: str
    """The id of the image."""
    names: Sequence[str]
    """v names; the first picture is the one that the others are compared with."""
    edited: Bool[Tensor, "v m"]
    """Which prototypes the edit sets."""
    guidance: Float[Tensor, " v"]
    """Weight by which the edit is exaggerated; 1: not at all."""
    original: Float[Tensor, " m"]
    """Activations of the image itself."""
    requested: Float[Tensor, "v m"]
    realised: Float[Tensor, "v m"]
    """Activations of the pictures as they are in their files."""
    round_trip_psnr: float
    """PSNR of the first picture against the image, in dB."""
    pictures: UInt8[Tensor, "v1 c h w"]
    """The image and its v pictures."""

    @property
    def flagged(self) -> bool:
        """Return whether the first picture is so unlike the image that the edits start from another picture."""
        return self.round_trip_psnr < PSNR_FLOOR

    @property
    def files(self) -> list[str]:
        """Return the names of the v files."""
        return [f"{safe(self.image)}_{safe(name)}.png" for name in self.names]

    def save(self, folder: Path) -> None:
        """Write the v PNG files."""
        for file, picture in zip(self.files, self.pictures[1:], strict=True):
            pixels = picture[0] if len(picture) == 1 else picture.movedim(0, -1)
            PillowImage.fromarray(pixels.numpy()).save(folder / file)

    def table(self) -> Iterator[tuple[Any, ...]]:
        """Yield a line of the table for each picture and prototype, with the columns `COLUMNS`."""
        original, unedited = self.original.tolist(), self.realised[0].tolist()
        for v, (file, name) in enumerate(zip(self.files, self.names, strict=True)):
            weight = f"{float(self.guidance[v]):.6g}"
            columns = (tensor[v].tolist() for tensor in (self.edited, self.requested, self.realised))
            for j, (edited, requested, realised) in enumerate(zip(*columns, strict=True)):
                change = realised - unedited[j]
                numbers = original[j], unedited[j], requested, realised, change, self.round_trip_psnr
                yield file, self.image, name, j, int(edited), weight, *(f"{x:.6g}" for x in numbers), int(self.flagged)


def safe(name: str) -> str:
    """Return a name that any file system takes: other characters become %XX, so that different names stay different."""
    return re.sub(r"[^\w ,.=+-]", lambda found: f"%{ord(found[0]):02X}", name)


def edited_series(
    model: PatronusModule,
    images: Image,
    ids: Sequence[str],
    variants: Sequence[Variant],
    reference: Float[Tensor, "n m"] | None,
    sampling: Sampling,
) -> list[Series]:
    """Decode each image unedited and in each variant, all from its own inverted noise.

    Args:
        model: the model.
        images: (b, c, h, w) in [-1, 1].
        ids: b names.
        variants: what to change; the unedited picture (decoded under the image's own s) comes before them.
        reference: (n, m) activations of a data set, which quantiles need; None where there are no quantiles.
        sampling: steps of inversion and sampler, sampler and batch size.
    """
    variants = [Variant("unedited", ()), *variants]
    v, low, high = len(variants), model.activation_low.cpu(), model.activation_high.cpu()
    inverted = invert(model, images, sampling)
    s = torch.stack([set_activations(inverted.s, changes, low, high, reference) for _, changes in variants])
    edited, weights = torch.zeros(v, s.shape[-1], dtype=torch.bool), torch.ones(v, s.shape[-1])
    for k, (_, changes) in enumerate(variants):
        for change in changes:
            edited[k, change.prototype], weights[k, change.prototype] = True, change.guidance
    drawn = torch.cat([_guided(model, inverted, *of, sampling) for of in zip(s, weights, strict=True)])
    guidance = torch.stack([weights_of_rows(w, told, inverted.s) for w, told in zip(weights, s, strict=True)])
    stored, realised = _read_back(model, drawn, sampling.batch_size)
    pictures = torch.cat([as_bytes(inverted.images), stored]).reshape(v + 1, *images.shape)
    realised = realised.reshape(s.shape)
    quality = psnr(as_floats(pictures[1]), inverted.images).tolist()
    names = [name for name, _ in variants]
    return [
        Series(
            kind="edits",
            image=ids[k],
            names=names,
            edited=edited,
            guidance=guidance[:, k],
            original=inverted.s[k],
            requested=s[:, k],
            realised=realised[:, k],
            round_trip_psnr=quality[k],
            pictures=pictures[:, k],
        )
        for k in range(len(images))
    ]


def _guided(
    model: PatronusModule, inverted: Inverted, s: Activations, weights: Float[Tensor, " m"], sampling: Sampling
) -> Image:
    """Decode images from their own noise under the activations `s`; without guidance where all weights are 1."""
    return decode(model, inverted.x_T, s, sampling, weights if (weights != 1).any() else None, inverted.s)


def interpolated_series(
    model: PatronusModule, ends: Image, ids: Sequence[str], count: int, sampling: Sampling
) -> Series:
    """Decode pictures on the way from one image to another; the first is the unedited start.

    Args:
        model: the model.
        ends: (2, c, h, w) in [-1, 1].
        ids: their two names.
        count: pictures, both ends included.
        sampling: steps of inversion and sampler, sampler and batch size.
    """
    inverted = invert(model, ends, sampling)
    start, end = inverted.s.unbind()
    share = torch.linspace(0, 1, count)
    drawn = interpolate(model, inverted.take([0]), inverted.take([1]), count, sampling)[:, 0]
    stored, realised = _read_back(model, drawn, sampling.batch_size)
    return Series(
        kind=f"interpolations_{count}",
        image=f"{ids[0]}_to_{ids[1]}",
        names=[f"{number:.3f}" for number in share.tolist()],
        edited=torch.ones_like(realised, dtype=torch.bool),
        guidance=torch.ones(count),
        original=start,
        requested=torch.lerp(start, end, share[:, None]),
        realised=realised,
        round_trip_psnr=float(psnr(as_floats(stored[:1]), inverted.images[:1])),
        pictures=torch.cat([as_bytes(inverted.images[:1]), stored]),
    )


def _read_back(model: PatronusModule, pictures: Image, batch_size: int) -> tuple[ImageBytes, Activations]:
    """Return the pictures as bytes, as they will be in their files, and the activations of those."""
    stored = as_bytes(pictures)
    return stored, encode(model, stored, batch_size)


def write_table(path: Path, everything: Sequence[Series]) -> None:
    """Write all numbers as a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for series in everything:
            writer.writerows(series.table())


def draw_grid(rows: Sequence[Series]) -> bytes:
    """Draw series of one kind as one PNG file; images that do not come back well from their own noise bear a flag."""
    labels = ["original", *rows[0].names]
    images = torch.stack([as_floats(series.pictures) for series in rows])
    wide_enough = max(64, 7 * max(map(len, labels)))
    names = [f"{series.image} ⚑" if series.flagged else series.image for series in rows]
    return image_grid(images, names, labels, tile=wide_enough)
