"""Where a prototype is in an image: the patch that resembles it most, its box, and a map at the size of the image.

The place is the arg-max of the similarity map, whichever way the map is pooled into activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import PointingGame, pointing_game
from patronus_pl.modules import PatronusModule
from patronus_pl.prototypes import ReceptiveField
from patronus_pl.types import Attributes, Image, Masks, SimilarityMap


@dataclass(frozen=True)
class Location:
    """The most similar patch of each image to each prototype. All tensors are on the CPU.

    Attributes:
        row: (b, m) of the patch in the similarity map.
        col: (b, m) its column.
        box: (b, m, 4) pixels that it sees: top, left, bottom, right, clipped, bottom and right exclusive.
        centre: (b, m, 2) row and column of its middle in pixel indices (the middle of pixel 0 is 0), inside the image.
        similarity: (b, m) of the patch; with hard pooling this is s.
    """

    row: Int[Tensor, "b m"]
    col: Int[Tensor, "b m"]
    box: Int[Tensor, "b m 4"]
    centre: Float[Tensor, "b m 2"]
    similarity: Float[Tensor, "b m"]


@evaluating
def locate(model: PatronusModule, images: Image, batch_size: int = 64) -> Location:
    """Find the patch that resembles each prototype most, in each image.

    Args:
        model: the model.
        images: (b, c, h, w) in [-1, 1].
        batch_size: images at a time.
    """
    parts = [best_patch(model, model.similarity_map(x.to(model.device)), x) for x in torch.split(images, batch_size)]
    return Location(*(torch.cat(values) for values in zip(*parts, strict=True)))


def best_patch(model: PatronusModule, similarity: SimilarityMap, images: Image) -> tuple[Tensor, ...]:
    """Return the fields of `Location` from similarity maps that are computed already."""
    value, index = similarity.flatten(2).max(-1)
    row, col = index.cpu() // similarity.shape[-1], index.cpu() % similarity.shape[-1]
    height, width = images.shape[-2:]
    field = model.encoder.receptive_field
    return row, col, boxes(field, row, col, height, width), centres(field, row, col, height, width), value.float().cpu()


def boxes(
    field: ReceptiveField, row: Int[Tensor, "*shape"], col: Int[Tensor, "*shape"], height: int, width: int
) -> Int[Tensor, "*shape 4"]:
    """Return the boxes of many patches at once, as `ReceptiveField.box` does for one."""
    top, left = field.offset + row * field.jump, field.offset + col * field.jump
    bottom, right = (top + field.size).clamp_max(height), (left + field.size).clamp_max(width)
    return torch.stack([top.clamp_min(0), left.clamp_min(0), bottom, right], dim=-1)


def centres(
    field: ReceptiveField, row: Int[Tensor, "*shape"], col: Int[Tensor, "*shape"], height: int, width: int
) -> Float[Tensor, "*shape 2"]:
    """Return the middles of patches as (row, column) in pixel indices, clamped to the image.

    They are half a pixel less than `ReceptiveField.centre`, in whose coordinates the middle of pixel 0 is 0.5.
    """
    half = (field.size - 1) / 2
    y = (field.offset + row * field.jump + half).clamp(0, height - 1)
    x = (field.offset + col * field.jump + half).clamp(0, width - 1)
    return torch.stack([y, x], dim=-1)


def all_centres(model: PatronusModule, height: int, width: int) -> Float[Tensor, "patches 2"]:
    """Return the middles of all patches of an image, which are the points that `locate` can return."""
    rows, cols = model.encoder.map_size(height, width)
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(cols))
    return centres(model.encoder.receptive_field, grid[:, 0], grid[:, 1], height, width)


# ---- the map at the size of the image --------------------------------------------------------------------------------


def pixel_map(
    similarity: SimilarityMap, receptive_field: ReceptiveField, height: int, width: int
) -> Float[Tensor, "b m height width"]:
    """Return the similarity map at the size of the image: each pixel has the mean over the patches that see it.

    value(p) = Σ_{u: p ∈ box(u)} sim(u) / |{u: p ∈ box(u)}|. No detail is invented by interpolation. It is NaN where no
    patch sees the pixel.
    """
    rows, cols = (
        _sees(receptive_field, count, pixels).to(similarity)
        for count, pixels in zip(similarity.shape[-2:], (height, width), strict=True)
    )
    seen_by = rows.sum(1)[:, None] * cols.sum(1)
    return rows @ similarity @ cols.T / seen_by  # boxes are products of intervals: two matrix products sum over them


def _sees(field: ReceptiveField, patches: int, pixels: int) -> Float[Tensor, "pixels patches"]:
    first = field.offset + torch.arange(patches) * field.jump
    pixel = torch.arange(pixels)[:, None]
    return ((pixel >= first) & (pixel < first + field.size)).float()


# ---- the pointing game -----------------------------------------------------------------------------------------------


@evaluating
def point_at_parts(
    model: PatronusModule,
    images: Image,
    attributes: Attributes,
    masks: Masks,
    prototypes: Sequence[int],
    signs: Sequence[int] | None = None,
    batch_size: int = 64,
) -> tuple[list[PointingGame], list[PointingGame]]:
    """Test whether the patch that reads an attribute lies on the part that shows it: two pointing games an attribute.

    A patch that tells a smile from the lower lip may have its centre on the chin.

    An image counts if the part is visible in it and it has the attribute or, for a prototype that signals absence,
    if it lacks the attribute.

    Args:
        model: the model.
        images: (n, c, h, w) in [-1, 1].
        attributes: (n, a) of 0, 1 and NaN (unknown: not counted).
        masks: (n, a, h, w), the part that shows each attribute in each image.
        prototypes: a indices, the prototype to ask for each attribute: `AttributeReading.prototype`; -1 asks none.
        signs: a of them, 1 for presence and -1 for absence: `AttributeReading.prototype_sign`; None: all 1.
        batch_size: images at a time.

    Returns:
        The games in which a hit is a patch whose centre lies on the part, and those in which its box holds any of it.

    Raises:
        InvalidOptionError: numbers of attributes that differ.
    """
    counts = attributes.shape[1], masks.shape[1], len(prototypes), len(signs or prototypes)
    if len(set(counts)) > 1:
        raise InvalidOptionError(f"{counts} attributes, masks, prototypes and signs; give one each an attribute")
    location = locate(model, images, batch_size)
    possible = all_centres(model, *images.shape[-2:])
    patches = zip(model.encoder.map_size(*images.shape[-2:]), images.shape[-2:], strict=True)
    rows, cols = (_sees(model.encoder.receptive_field, count, pixels) for count, pixels in patches)
    by_centre, by_box = [], []
    for a, (j, sign) in enumerate(zip(prototypes, signs or [1] * len(prototypes), strict=True)):
        speaks = (attributes[:, a] == (sign > 0)) & (j >= 0)
        part = masks[:, a] & speaks[:, None, None]
        by_centre.append(pointing_game(location.centre[:, j], part, possible))
        patch = torch.stack([location.row[:, j], location.col[:, j]], -1)
        by_box.append(pointing_game(patch, rows.T @ part.float() @ cols > 0))  # patches in the place of pixels
    return by_centre, by_box
