"""Interventions: move one thing in s from low to high, keep the noise, and let a judge score what else changed.

Notation: z = (s − mean) / std are standardised activations; a move sets the coordinate v·z along a unit vector v to a
low and to a high value and leaves what is perpendicular to v as it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from patronus_pl.analysis.attributes.judges import Judge, judged
from patronus_pl.analysis.attributes.reading import best_attribute
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.metrics import logistic_weights, mean_and_std
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_bytes
from patronus_pl.types import Activations, Attributes, Image

ENDS = (0.02, 0.98)
"""Quantiles over real images between which an edit moves; the stored ranges of prototypes use the same."""


@dataclass(frozen=True)
class Moves:
    """The p moves of an audit.

    Attributes:
        names: names of the moves.
        own: (p,) the attribute that each is meant to move; -1 for none.
        direction: (p, m) unit vectors in standardised activations; the attribute is present at the high end.
        low: (p,) low end of the coordinate.
        high: (p,) high end of the coordinate.
        mean: (m,) mean that standardises s.
        std: (m,) standard deviation that standardises s.
    """

    names: tuple[str, ...]
    own: Int[Tensor, " p"]
    direction: Float[Tensor, "p m"]
    low: Float[Tensor, " p"]
    high: Float[Tensor, " p"]
    mean: Float[Tensor, " m"]
    std: Float[Tensor, " m"]

    @property
    def size(self) -> Float[Tensor, " p"]:
        """How far each move goes, in standard deviations of s, shape (p,)."""
        return self.high - self.low

    def ends(self, which: Int[Tensor, " b"], s: Activations) -> Float[Tensor, "b 2 m"]:
        """Return each row of s moved to the low and to the high end of its own move: s + (end − v·z) v · std."""
        v = self.direction[which]
        at = (v * (s - self.mean) / self.std).sum(1, keepdim=True)
        far = torch.stack([self.low[which], self.high[which]], dim=1) - at
        return s[:, None] + far[:, :, None] * (v * self.std)[:, None]


def attribute_moves(s: Activations, attributes: Attributes, names: Sequence[str]) -> Moves:
    """Return one move for each attribute, along the normal of the plane by which a logistic regression separates it.

    The normal is the direction in which s tells most of the attribute (as in Shen et al. 2020, "Interpreting the latent
    space of GANs for semantic face editing"). It leans towards another attribute as far as s cannot tell the two apart.

    Args:
        s: activations of real images, shape (n, m).
        attributes: labels of these images, shape (n, a), of 0, 1 and NaN (unknown); both values occur in each column.
        names: names of the attributes.
    """
    z, mean, std = _standardised(s)
    normals = logistic_weights(z, attributes)[:-1].T
    return _moves(names, torch.arange(len(names)), torch.from_numpy(normals).float(), z, mean, std)


def best_prototype_moves(s: Activations, attributes: Attributes, names: Sequence[str]) -> Moves:
    """Return one move for each attribute: the prototype that reads it best, towards the end where it is present."""
    z, mean, std = _standardised(s)
    reading = best_attribute(s, attributes, names)
    direction = torch.eye(s.shape[1])[reading.prototype.clamp_min(0)] * reading.prototype_sign[:, None]
    named = [f"{name} (prototype {j})" for name, j in zip(names, reading.prototype.tolist(), strict=True)]
    return _moves(named, torch.arange(len(names)), direction, z, mean, std)


def prototype_moves(s: Activations, attributes: Attributes, names: Sequence[str]) -> Moves:
    """Return one move for each prototype, meant for the attribute that it reads best, towards its presence."""
    z, mean, std = _standardised(s)
    reading = best_attribute(s, attributes, names)
    named = [f"prototype {j} ({names[a]})" for j, a in enumerate(reading.attribute.tolist())]
    direction = torch.eye(s.shape[1]) * reading.attribute_sign[:, None]
    return _moves(named, reading.attribute, direction, z, mean, std)


def placebo_moves(like: Moves, s: Activations, count: int, seed: int = 0) -> Moves:
    """Return moves for attributes that do not exist: directions are fitted to random labels as to real ones.

    Each goes as far as the median of the real moves.

    Args:
        like: the real moves.
        s: activations of real images, shape (n, m).
        count: number of moves.
        seed: seed of the labels.
    """
    labels = np.random.default_rng(seed).integers(0, 2, (len(s), count)).astype(float)
    z = (s - like.mean) / like.std
    normals = torch.from_numpy(logistic_weights(z, labels)[:-1].T).float()
    return _as_far(like, [f"placebo {k}" for k in range(count)], normals, z)


def random_prototype_moves(like: Moves, s: Activations, count: int, seed: int = 0) -> Moves:
    """Return moves of prototypes drawn at random with replacement, each as far as the median of the real moves.

    The arguments are those of `placebo_moves`; the seed is that of the draw.
    """
    drawn = np.random.default_rng(seed).integers(0, s.shape[1], count)
    names = [f"random prototype {j}" for j in drawn]
    return _as_far(like, names, torch.eye(s.shape[1])[torch.from_numpy(drawn)], (s - like.mean) / like.std)


def _as_far(like: Moves, names: Sequence[str], direction: Float[Tensor, "k m"], z: Activations) -> Moves:
    """Return moves for no attribute, of the median size of the real ones, about the middle of their own range."""
    moves = _moves(names, torch.full((len(names),), -1), direction, z, like.mean, like.std)
    centre, half = (moves.low + moves.high) / 2, like.size.quantile(0.5) / 2
    return Moves(moves.names, moves.own, moves.direction, centre - half, centre + half, moves.mean, moves.std)


def _standardised(s: Activations) -> tuple[Activations, Tensor, Tensor]:
    mean, std = mean_and_std(s)
    return (s - mean) / std, mean, std


def _moves(names: Sequence[str], own: Tensor, direction: Tensor, z: Activations, mean: Tensor, std: Tensor) -> Moves:
    unit = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-12)
    low, high = (z @ unit.T).quantile(torch.tensor(ENDS), dim=0)
    return Moves(tuple(names), own, unit, low, high, mean, std)


# ---- moving ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Intervention:
    """What `intervene` returns, for p moves, n images and a attributes.

    Attributes:
        scores: (p, n, 2, a) the judge's scores at the low and at the high end of each move in each image.
        pictures: (p, kept, 2, c, h, w) the pictures of the first images, as bytes.
    """

    scores: Float[Tensor, "p n two a"]
    pictures: UInt8[Tensor, "p kept two c h w"]

    @property
    def change(self) -> Float[Tensor, "p n a"]:
        """Score at the high end minus score at the low end, shape (p, n, a)."""
        return self.scores[:, :, 1] - self.scores[:, :, 0]


@evaluating
def intervene(
    model: PatronusModule,
    judge: Judge,
    attributes: int,
    moves: Moves,
    s: Activations,
    x_T: Image,
    sampling: Sampling,
    keep: int = 0,
) -> Intervention:
    """Draw every image at both ends of every move from the same noise, 2 p n pictures, and have the judge score them.

    Args:
        model: the model.
        judge: function from images to scores.
        attributes: number of scores.
        moves: what to move.
        s: activations to start from, shape (n, m).
        x_T: noise, held fixed, shape (n, c, h, w).
        sampling: steps, sampler and batch size.
        keep: number of images whose pictures are kept, the first ones.
    """
    p, n = len(moves.names), len(s)
    scores = torch.zeros(p, n, 2, attributes)
    pictures = torch.zeros(p, min(keep, n), 2, *x_T.shape[1:], dtype=torch.uint8)
    for which, image in _pairs(p, n, sampling.batch_size // 2):
        both = moves.ends(which, s[image]).flatten(0, 1).to(model.device)
        noise = x_T[image].repeat_interleave(2, 0).to(model.device)
        drawn = model.decode(noise, both, sampling.steps, sampling.sampler).cpu()
        scores[which, image] = judged(judge, drawn, attributes).reshape(-1, 2, attributes)
        shown = image < keep
        pictures[which[shown], image[shown]] = as_bytes(drawn.reshape(-1, 2, *drawn.shape[1:])[shown])
    return Intervention(scores, pictures)


def _pairs(p: int, n: int, size: int) -> Iterator[tuple[Int[Tensor, " b"], Int[Tensor, " b"]]]:
    """Yield every pair of a move and an image, at most `size` at a time."""
    for chunk in torch.split(torch.cartesian_prod(torch.arange(p), torch.arange(n)), max(1, size)):
        yield chunk[:, 0], chunk[:, 1]
