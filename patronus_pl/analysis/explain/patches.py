"""Top patches: the patches of a data set that resemble each prototype most."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.analysis.explain.where import best_patch
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.types import Activations, Features, Image, SimilarityMap


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
    AT_ONCE = 4  # images whose products are held: m maps each, in float64

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []

    def update(self, similarity: SimilarityMap, s: Activations) -> None:
        for part, values in zip(torch.split(similarity, self.AT_ONCE), torch.split(s, self.AT_ONCE), strict=True):
            x, y = part.flatten(2).double().cpu(), values[:, :, None].double().cpu()
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
    """Read a data set once and keep, for each prototype, the k patches that resemble it most.

    Patches are ranked by their similarity, which with hard pooling is s. Memory does not grow with the images.

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
        features = model.features(x)
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


def _candidates(
    model: PatronusModule,
    images: Image,
    features: Features,
    similarity: SimilarityMap,
    s: Activations,
    first: int,
) -> dict[str, Tensor]:
    """Return the best patch of every image for every prototype; tensors of shape (m, b, ...)."""
    row, col, box, _, value = best_patch(model, similarity, images)
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
    """Draw a patch of each image with a random key; the r largest keys of a stream are a uniform sample of it."""
    flat = features.flatten(2).float().cpu()
    patch = torch.randint(flat.shape[2], (len(flat),), generator=generator)
    vectors = flat[torch.arange(len(flat)), :, patch]
    return {"key": torch.rand(1, len(flat), generator=generator), "features": vectors[None]}


def _best(kept: dict[str, Tensor], new: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Return the k columns of both with the largest keys; of equal keys the earlier image comes first."""
    both = {name: torch.cat([kept[name], value], dim=1) if kept else value for name, value in new.items()}
    order = both["key"].argsort(dim=1, descending=True, stable=True)[:, :k]
    rows = torch.arange(len(order))[:, None]
    return {name: value[rows, order] for name, value in both.items()}
