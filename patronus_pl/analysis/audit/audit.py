"""The audit: which attributes a model ties together, how strongly, whether the data do too, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.attributes.association import Association, associate
from patronus_pl.analysis.attributes.judges import Judge, JudgeQuality, assess
from patronus_pl.analysis.audit.compensate import compensated_moves
from patronus_pl.analysis.audit.intervene import (
    Intervention,
    Moves,
    attribute_moves,
    best_prototype_moves,
    intervene,
    placebo_moves,
    prototype_moves,
    random_prototype_moves,
)
from patronus_pl.analysis.audit.ties import Effects, Ties, effects, find_ties, null_ties, tie_matrix
from patronus_pl.analysis.editing.decoding import encode
from patronus_pl.analysis.editing.inverting import invert
from patronus_pl.analysis.progress import counting
from patronus_pl.analysis.subject import Subject
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.types import Activations, Image, ImageBytes

MINORITY = 10
"""Smallest number of images that must have an attribute, and lack it: rarer ones cannot be learned."""
WORST_SPREAD = 0.5
"""Assumed standard deviation over images of a change of score, before it is measured."""
INVERSION_STEPS = 20
"""Steps of the inversion, where edits start from inverted noise."""
AUDIT_SAMPLING = Sampling(steps=10, batch_size=128)
"""Ten steps of DPM-Solver++ are enough to judge attributes, and edits are many."""


@dataclass(frozen=True)
class AuditEffort:
    """What is moved in s, what it is tested against, and how much of both.

    Attributes:
        move: what is moved: `direction`, for each attribute a direction fitted on s; `best`, for each attribute the
            prototype that reads it best; `prototypes`, every prototype.
        noise: the noise from which edits start: `random`, or `inverted` from the real images.
        control: the random moves that show what chance does: `placebo`, fitted to random labels; `prototype`,
            prototypes drawn at random.
        controls: number of random moves.
        control_images: number of images in which they are made.
        margin: smallest tie that counts.
        level: share of false findings that is accepted.
        precision: wanted half width of the intervals of ties.
        compensate: also make edits that hold the other attributes.
        samples: number of resamplings of every bootstrap.
        shown: number of images whose pictures are kept.
    """

    move: Literal["direction", "best", "prototypes"] = "direction"
    noise: Literal["random", "inverted"] = "random"
    control: Literal["placebo", "prototype"] = "placebo"
    controls: int = 16
    control_images: int = 50
    margin: float = 0.1
    level: float = 0.05
    precision: float = 0.1
    compensate: bool = False
    samples: int = 1000
    shown: int = 6

    def check(self, images: int) -> None:
        """Raise InvalidOptionError if an option is impossible, or the images too few for the wanted precision."""
        for name in ("controls", "control_images", "samples"):
            if getattr(self, name) < 2:
                raise InvalidOptionError(f"effort.{name} is {getattr(self, name)}; it must be at least 2")
        if self.shown < 1:
            raise InvalidOptionError(f"effort.shown is {self.shown}; it must be at least 1")
        for name in ("margin", "level", "precision"):
            if not 0 < getattr(self, name) <= 1:
                raise InvalidOptionError(f"effort.{name} is {getattr(self, name)}; it must lie in (0, 1]")
        needed = max(2, math.ceil((1.96 * WORST_SPREAD / self.precision) ** 2))
        if images < needed:
            raise InvalidOptionError(
                f"{images} images are too few for intervals of ±{self.precision:g}: about {needed} are needed; "
                "raise --n (or the size of the split), or --effort.precision"
            )


@dataclass(frozen=True)
class Audit:
    """What `audit` found, for p moves and a attributes.

    Attributes:
        names: names of the a attributes.
        quality: what the judge is worth, on real images.
        data: how attributes go together in the data.
        moves: what was moved.
        seen: scores and pictures of the edits.
        ties: the findings.
        null: (k, a) ties of random moves.
        compensated: ties under compensated edits; None if these were not asked for.
        twin: (p, a) ties of the twin; None if there is no twin.
        images: number of edited images.
        images_needed: number of images that would give every tested tie an interval of the wanted width.
    """

    names: tuple[str, ...]
    quality: JudgeQuality
    data: Association
    moves: Moves
    seen: Intervention
    ties: Ties
    null: Float[Tensor, "k a"]
    compensated: Ties | None
    twin: Float[Tensor, "p a"] | None
    images: int
    images_needed: int


def auditable(subject: Subject, wanted: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the names of the attributes that can be audited, and why the others cannot.

    Args:
        subject: training images.
        wanted: names of attributes; none means all.

    Raises:
        InvalidOptionError: there are no attributes, one is unknown, or one that was asked for is (nearly) constant.
    """
    names = list(subject.attribute_names)
    if not names:
        raise InvalidOptionError("the data have no attributes to audit; add a table of them (data.attributes)")
    chosen = list(wanted) or names
    excluded = {}
    for name, column in zip(chosen, restricted(subject, chosen).attributes.T, strict=True):
        held, lacked = int((column == 1).sum()), int((column == 0).sum())
        if min(held, lacked) < MINORITY:
            excluded[name] = f"{held} of {held + lacked} images have it; {MINORITY} must, and as many must not"
    kept = tuple(name for name in chosen if name not in excluded)
    if len(kept) < 2 or (wanted and excluded):
        reasons = "; ".join(f"{name}: {why}" for name, why in excluded.items()) or f"there is only {', '.join(kept)}"
        raise InvalidOptionError(f"too few attributes vary to be audited against each other ({reasons}); name others")
    return kept, excluded


def restricted(subject: Subject, names: Sequence[str]) -> Subject:
    """Return the same images with these attributes alone.

    Raises:
        InvalidOptionError: the data do not have one of them.
    """
    known = list(subject.attribute_names)
    for name in names:
        if name not in known:
            raise InvalidOptionError(f"there is no attribute {name!r}; the data have {', '.join(known) or 'none'}")
    columns = [known.index(name) for name in names]
    kinds = tuple(subject.attribute_kind[a] for a in columns) if len(subject.attribute_kind) else ()
    table = subject.attributes[:, columns]
    return replace(subject, attributes=table, attribute_names=tuple(names), attribute_kind=kinds, masks=None)


def audit(
    model: PatronusModule,
    reference: Subject,
    images: Image | ImageBytes,
    judge: Judge,
    trial: Subject,
    effort: AuditEffort = AuditEffort(),
    sampling: Sampling = AUDIT_SAMPLING,
    twin: PatronusModule | None = None,
) -> Audit:
    """Move every attribute in s, and measure what else moves.

    Args:
        model: a trained model.
        reference: images of the training set: directions are fitted on them, and their attributes are the data's.
        images: images to edit, not trained on, shape (n, c, h, w); bytes or floats in [-1, 1].
        judge: see `judges`; its scores are those of the attributes of `reference`.
        trial: images with the same attributes that the judge was not trained on; its quality is measured on them.
        effort: what is moved and tested.
        sampling: how pictures are drawn; its seed is also that of controls and resampling.
        twin: the same model, trained on data without the bias.

    Raises:
        InvalidOptionError: too few images, or a judge that is no better than chance on all but one attribute.
    """
    _check(len(images), effort, sampling, twin)
    names = tuple(reference.attribute_names)
    quality = _usable_quality(judge, trial, names)
    data = associate(torch.from_numpy(reference.attributes), names, effort.samples, sampling.seed)
    bench = _Bench(model, reference, images, judge, quality, data, effort, sampling)
    seen = bench.intervene(bench.moves)
    found = bench.effects(seen)
    null, twin_ties = bench.null(found), None
    if twin is not None:
        other = _Bench(twin, reference, images, judge, quality, data, effort, sampling)
        twin_ties = tie_matrix(other.effects(other.intervene(other.moves)).share, other.moves.own, data.spread)
    ties = bench.ties(found, null, twin_ties)
    compensated = bench.compensated(found, null) if effort.compensate else None
    widest = float((1.96 * ties.error).where(ties.tested, 0.0).max())
    needed = math.ceil(len(images) * (widest / effort.precision) ** 2)
    return Audit(names, quality, data, bench.moves, seen, ties, null, compensated, twin_ties, len(images), needed)


def _check(images: int, effort: AuditEffort, sampling: Sampling, twin: PatronusModule | None) -> None:
    """Raise InvalidOptionError if options are impossible, alone or together."""
    effort.check(images)
    for name in ("steps", "batch_size"):
        if getattr(sampling, name) < 2:
            raise InvalidOptionError(f"sampling.{name} is {getattr(sampling, name)}; it must be at least 2")
    if twin is not None and effort.move == "prototypes":
        raise InvalidOptionError("effort.move is 'prototypes', but a twin has other ones; choose direction or best")


def _usable_quality(judge: Judge, trial: Subject, names: Sequence[str]) -> JudgeQuality:
    """Return what the judge is worth; raise InvalidOptionError if that is too little."""
    quality = assess(judge, torch.from_numpy(np.ascontiguousarray(trial.images)), torch.from_numpy(trial.attributes))
    if int(quality.usable.sum()) < 2:
        unread = ", ".join(name for name, usable in zip(names, quality.usable.tolist(), strict=True) if not usable)
        raise InvalidOptionError(f"the judge is no better than chance on {unread}; train it longer, or take another")
    return quality


class _Bench:
    """One model under audit, with its moves, activations and noise, which are the same for every series of edits."""

    def __init__(
        self,
        model: PatronusModule,
        reference: Subject,
        images: Image | ImageBytes,
        judge: Judge,
        quality: JudgeQuality,
        data: Association,
        effort: AuditEffort,
        sampling: Sampling,
    ) -> None:
        self.model, self.judge, self.quality, self.data = model, judge, quality, data
        self.effort, self.sampling = effort, sampling
        self.reference = self._encode(torch.from_numpy(np.ascontiguousarray(reference.images)))
        attributes, names = torch.from_numpy(reference.attributes), reference.attribute_names
        self.directions = attribute_moves(self.reference, attributes, names)
        self.moves = {
            "direction": lambda: self.directions,
            "best": lambda: best_prototype_moves(self.reference, attributes, names),
            "prototypes": lambda: prototype_moves(self.reference, attributes, names),
        }[effort.move]()
        self.s, self.x_T = self._start(images)

    def _encode(self, images: Image | ImageBytes) -> Activations:
        return encode(self.model, images, self.sampling.batch_size)

    def _start(self, images: Image | ImageBytes) -> tuple[Activations, Image]:
        if self.effort.noise == "inverted":
            inverted = invert(self.model, as_floats(images), replace(self.sampling, steps=INVERSION_STEPS))
            return inverted.s, inverted.x_T
        generator = torch.Generator().manual_seed(self.sampling.seed)
        return self._encode(images), torch.randn(images.shape, generator=generator)

    def intervene(self, moves: Moves, images: int | None = None, label: str = "edits") -> Intervention:
        """Make the moves in the first images (None: all)."""
        s, x_T = self.s[:images], self.x_T[:images]
        with counting(self.model.denoiser, 2 * len(moves.names) * len(s) * self.sampling.steps) as say:
            say(label)
            options = self.sampling, self.effort.shown
            return intervene(self.model, self.judge, len(self.data.share), moves, s, x_T, *options)

    def effects(self, seen: Intervention) -> Effects:
        """Return what the moves did to each attribute that the judge can tell."""
        gain = self.quality.gain.where(self.quality.usable, torch.nan)
        return effects(seen.change, gain, self.effort.samples, self.sampling.seed)

    def null(self, found: Effects) -> Float[Tensor, "k a"]:
        """Return the ties of random moves of the same size, on the scale of those of the real ones."""
        random = {"placebo": placebo_moves, "prototype": random_prototype_moves}[self.effort.control]
        moves = random(self.moves, self.reference, self.effort.controls, self.sampling.seed)
        controls = self.effects(self.intervene(moves, self.effort.control_images, "controls"))
        overlap = moves.direction @ self.directions.direction.T
        own = found.share.gather(1, self.moves.own[:, None])[:, 0] / self.data.spread[self.moves.own]
        typical = max(float(own.nanquantile(0.5)), 1e-6)
        return null_ties(controls.share, overlap, self.data.spread, typical)

    def ties(self, found: Effects, null: Float[Tensor, "k a"], twin: Tensor | None = None) -> Ties:
        """Return the findings."""
        options = self.effort.margin, self.effort.level
        return find_ties(found, self.moves.own, self.quality.usable, self.data, null, twin, *options)

    def compensated(self, found: Effects, null: Float[Tensor, "k a"]) -> Ties:
        """Return the findings of edits that hold what is neither the target nor an alternative to it."""
        own = self.moves.own
        hold = self.quality.usable & ~self.data.group[own]
        standard = (found.share / self.data.spread).nan_to_num(0.0)
        moves = compensated_moves(self.moves, standard, hold, self.reference)
        return self.ties(self.effects(self.intervene(moves, label="compensated")), null)
