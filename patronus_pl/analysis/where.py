"""Where a prototype is: the patch that resembles it most, its box, the honest map, and the pointing game.

Both ways of pooling have a place: the arg-max of the similarity map.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from patronus_pl.analysis.evaluation import evaluating
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import PointingGame, pointing_game
from patronus_pl.modules import PatronusModule
from patronus_pl.prototypes import ReceptiveField
from patronus_pl.types import Activations, Attributes, Features, Image, ImageBytes, Masks, SimilarityMap


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
    """Find each prototype in each image.

    Args:
        model: the model.
        images: (b, c, h, w) in [-1, 1].
        batch_size: images at a time.
    """
    parts = [_locate(model, model.similarity_map(x.to(model.device)), x) for x in torch.split(images, batch_size)]
    return Location(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _locate(model: PatronusModule, similarity: SimilarityMap, images: Image) -> tuple[Tensor, ...]:
    value, index = similarity.flatten(2).max(-1)
    row, col = index.cpu() // similarity.shape[-1], index.cpu() % similarity.shape[-1]
    height, width = images.shape[-2:]
    field = model.encoder.receptive_field
    return row, col, boxes(field, row, col, height, width), centres(field, row, col, height, width), value.float().cpu()


def boxes(
    field: ReceptiveField, row: Int[Tensor, "*shape"], col: Int[Tensor, "*shape"], height: int, width: int
) -> Int[Tensor, "*shape 4"]:
    """`ReceptiveField.box` of many patches at once."""
    top, left = field.offset + row * field.jump, field.offset + col * field.jump
    bottom, right = (top + field.size).clamp_max(height), (left + field.size).clamp_max(width)
    return torch.stack([top.clamp_min(0), left.clamp_min(0), bottom, right], dim=-1)


def centres(
    field: ReceptiveField, row: Int[Tensor, "*shape"], col: Int[Tensor, "*shape"], height: int, width: int
) -> Float[Tensor, "*shape 2"]:
    """Middles of patches as (row, column) in pixel indices, held inside the image.

    Half a pixel less than `ReceptiveField.centre`, in whose coordinates the middle of pixel 0 is 0.5.
    """
    half = (field.size - 1) / 2
    y = (field.offset + row * field.jump + half).clamp(0, height - 1)
    x = (field.offset + col * field.jump + half).clamp(0, width - 1)
    return torch.stack([y, x], dim=-1)


def all_centres(model: PatronusModule, height: int, width: int) -> Float[Tensor, "patches 2"]:
    """Middles of all patches of an image: the points that `locate` can return."""
    rows, cols = model.encoder.map_size(height, width)
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(cols))
    return centres(model.encoder.receptive_field, grid[:, 0], grid[:, 1], height, width)


# ---- the map at the size of the image --------------------------------------------------------------------------------


def pixel_map(
    similarity: SimilarityMap, receptive_field: ReceptiveField, height: int, width: int
) -> Float[Tensor, "b m height width"]:
    """The similarity map at the size of the image, without inventing detail.

    value(p) = Σ_{u: p ∈ box(u)} sim(u) / |{u: p ∈ box(u)}|: the mean over the patches that see the pixel, which is a
    transposed convolution with ones divided by the same of ones. NaN where no patch looks.
    """
    rows, cols = (
        _sees(receptive_field, count, pixels).to(similarity)
        for count, pixels in zip(similarity.shape[-2:], (height, width), strict=True)
    )
    seen_by = rows.sum(1)[:, None] * cols.sum(1)
    return rows @ similarity @ cols.T / seen_by  # boxes are products of intervals, so two small matrices do it


def _sees(field: ReceptiveField, patches: int, pixels: int) -> Float[Tensor, "pixels patches"]:
    first = field.offset + torch.arange(patches) * field.jump
    pixel = torch.arange(pixels)[:, None]
    return ((pixel >= first) & (pixel < first + field.size)).float()


# ---- the best patches of a data set ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TopPatches:
    """The k images that show each prototype most, at most one patch an image, the best first. All on the CPU.

    Where the data have fewer than k images, k is their number.

    Attributes:
        activation: (m, k) s of the image.
        similarity: (m, k) of the patch.
        index: (m, k) of the image: its position in the stream of batches.
        id: m lists of k names of images.
        row: (m, k) of the patch in the similarity map.
        col: (m, k) its column.
        box: (m, k, 4) pixels: top, left, bottom, right, clipped, bottom and right exclusive.
        features: (m, k, d) feature vectors of the patches, for `census.consistency`.
        random_features: (r, d) feature vectors of patches drawn at random, one an image at most.
        spread: (m,) share of an image's patches that follow the prototype: |corr(sim_j(u), s_j)| ≥ 0.3 over the images.
            Small where it speaks of a part, large where the whole image moves with it. NaN below 50 images.
        images: number of images seen.
    """

    activation: Float[Tensor, "m k"]
    similarity: Float[Tensor, "m k"]
    index: Int[Tensor, "m k"]
    id: list[list[str]]
    row: Int[Tensor, "m k"]
    col: Int[Tensor, "m k"]
    box: Int[Tensor, "m k 4"]
    features: Float[Tensor, "m k d"]
    random_features: Float[Tensor, "r d"]
    spread: Float[Tensor, " m"]
    images: int


class _Follow:
    """Correlation over images between each patch's similarity and the prototype's activation, from running sums."""

    CORRELATED = 0.3
    ENOUGH = 50  # below, chance alone correlates many patches as much

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []

    def update(self, similarity: SimilarityMap, s: Activations) -> None:
        x, y = similarity.flatten(2).double().cpu(), s[:, :, None].double().cpu()
        new = [terms.sum(0) for terms in (x, y, x * x, y * y, x * y)]
        self.sums = [a + b for a, b in zip(self.sums, new, strict=True)] if self.sums else new
        self.count += len(s)

    def share(self) -> Float[Tensor, " m"]:
        x, y, xx, yy, xy = (total / self.count for total in self.sums)
        spread = ((xx - x * x) * (yy - y * y)).clamp_min(1e-20).sqrt()
        share = (((xy - x * y) / spread).abs() >= self.CORRELATED).float().mean(1)
        return share if self.count >= self.ENOUGH else torch.full_like(share, torch.nan)


@evaluating
def top_patches(
    model: PatronusModule, batches: Iterable[Mapping[str, Any]], k: int = 9, random_patches: int = 256, seed: int = 0
) -> TopPatches:
    """Stream over a data set and keep, for each prototype, the k patches that resemble it most.

    Ranked by the similarity of the patch (with hard pooling, s). Memory does not grow with the number of images.

    Args:
        model: the model.
        batches: dictionaries with `image`, (b, c, h, w) as floats in [-1, 1] or as bytes, and `id`, b names; images of
            one size.
        k: patches a prototype.
        random_patches: how many random patches to keep.
        seed: of the random patches.

    Raises:
        InvalidOptionError: k < 1, or no images.
    """
    if k < 1:
        raise InvalidOptionError(f"k is {k}; ask for at least 1 patch a prototype")
    generator = torch.Generator().manual_seed(seed)
    best: dict[str, Tensor] = {}
    drawn: dict[str, Tensor] = {}
    ids: dict[int, str] = {}
    follow = _Follow()
    count = 0
    for batch in batches:
        x = as_floats(batch["image"]).to(model.device)
        features = model.encoder(x)
        similarity = model.prototypes.similarity_map(features)
        s = model.prototypes.pool(similarity)
        follow.update(similarity, s)
        best = _best(best, _candidates(model, x, features, similarity, s, count), k)
        drawn = _best(drawn, _random_candidates(features, generator), random_patches)
        names = dict(enumerate(batch["id"], start=count))
        ids = {i: names.get(i) or ids[i] for i in set(best["index"].flatten().tolist())}
        count += len(x)
    if not count:
        raise InvalidOptionError("there are no images to search for patches; give at least one batch")
    return TopPatches(
        **{name: best[name] for name in ("activation", "similarity", "index", "row", "col", "box", "features")},
        id=[[ids[i] for i in row] for row in best["index"].tolist()],
        random_features=drawn["features"][0],
        spread=follow.share(),
        images=count,
    )


def as_floats(images: Image | ImageBytes) -> Image:
    """Images in [-1, 1], be they bytes or floats already."""
    return images if images.is_floating_point() else images.float() / 127.5 - 1


def as_bytes(images: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n c h w"]:
    """Images in [-1, 1] as bytes, rounded."""
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def _candidates(
    model: PatronusModule,
    images: Image,
    features: Features,
    similarity: SimilarityMap,
    s: Activations,
    first: int,
) -> dict[str, Tensor]:
    """Every image's best patch for every prototype, (m, b, ...)."""
    row, col, box, _, value = _locate(model, similarity, images)
    patch = (row * similarity.shape[-1] + col).to(features.device)
    vectors = features.flatten(2).gather(2, patch[:, None].expand(-1, features.shape[1], -1))
    return {
        "key": value.T,
        "similarity": value.T,
        "activation": s.float().cpu().T,
        "index": torch.arange(first, first + len(images)).expand_as(value.T),
        "row": row.T,
        "col": col.T,
        "box": box.transpose(0, 1),
        "features": vectors.permute(2, 0, 1).float().cpu(),
    }


def _random_candidates(features: Features, generator: torch.Generator) -> dict[str, Tensor]:
    """One patch an image under a random key: the r largest keys of a stream are a uniform sample of it."""
    flat = features.flatten(2).float().cpu()
    patch = torch.randint(flat.shape[2], (len(flat),), generator=generator)
    vectors = flat[torch.arange(len(flat)), :, patch]
    return {"key": torch.rand(1, len(flat), generator=generator), "features": vectors[None]}


def _best(kept: dict[str, Tensor], new: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """The k columns with the largest keys of both, the earlier image first among equals."""
    both = {name: torch.cat([kept[name], value], dim=1) if kept else value for name, value in new.items()}
    order = both["key"].argsort(dim=1, descending=True, stable=True)[:, :k]
    rows = torch.arange(len(order))[:, None]
    return {name: value[rows, order] for name, value in both.items()}


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
) -> list[PointingGame]:
    """Does the patch that reads an attribute lie on the part that shows it? One pointing game an attribute.

    Counted are the images on which the prototype speaks: those that have the attribute, or, for one that signals its
    absence, those that lack it; and in which the part is visible.

    Args:
        model: the model.
        images: (n, c, h, w) in [-1, 1].
        attributes: (n, a) of 0, 1 and NaN (unknown: not counted).
        masks: (n, a, h, w), the part that shows each attribute in each image.
        prototypes: a indices, the prototype to ask for each attribute: `AttributeReading.prototype`; -1 asks none.
        signs: a of them, 1 for presence and -1 for absence: `AttributeReading.prototype_sign`; None: all 1.
        batch_size: images at a time.

    Raises:
        InvalidOptionError: numbers of attributes that differ.
    """
    counts = attributes.shape[1], masks.shape[1], len(prototypes), len(signs or prototypes)
    if len(set(counts)) > 1:
        raise InvalidOptionError(f"{counts} attributes, masks, prototypes and signs; give one each an attribute")
    location = locate(model, images, batch_size)
    possible = all_centres(model, *images.shape[-2:])
    games = []
    for a, (j, sign) in enumerate(zip(prototypes, signs or [1] * len(prototypes), strict=True)):
        speaks = (attributes[:, a] == (sign > 0)) & (j >= 0)
        games.append(pointing_game(location.centre[:, j], masks[:, a] & speaks[:, None, None], possible))
    return games
