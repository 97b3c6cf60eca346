"""Judges: functions that tell which attributes a picture shows, one score for each attribute.

There are four kinds: a probe on the model's own activations, a small network trained for the purpose, the nearest of a
set of ideal portraits, and any classifier of the user's. The quality of a judge is measured on real images first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from patronus_pl.analysis.editing.decoding import encode
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import SmallCNN, auroc, logistic_weights, mean_and_std
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.types import Activations, Attributes, Image, ImageBytes

Judge = Callable[[Image], Float[Tensor, "b a"]]
"""Images in [-1, 1] → scores in [0, 1], one an attribute: 1 if it is surely there, NaN if the judge cannot tell."""

# ---- the quality of a judge ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgeQuality:
    """What `assess` found on real images, for a attributes; NaN for an attribute with one value only.

    Attributes:
        auroc: (a,) probability that the judge scores a random image with the attribute above one without it.
        auroc_low: (a,) lower end of the one-sided 95 % interval of `auroc`.
        accuracy: (a,) mean over both classes of the share of images on which score > ½ is right.
        gain: (a,) mean score with the attribute minus mean score without it, 1 for a judge that is always right and
            sure. A change of the judge's mean score, divided by the gain, is the change of the share of images
            (Rogan & Gladen 1978).
        apart: (a, a) AUROC of the row's attribute among images that agree on the column's: ½ where the judge takes one
            for the other, NaN where no images tell them apart.
    """

    auroc: Float[Tensor, " a"]
    auroc_low: Float[Tensor, " a"]
    accuracy: Float[Tensor, " a"]
    gain: Float[Tensor, " a"]
    apart: Float[Tensor, "a a"]

    @property
    def usable(self) -> Bool[Tensor, " a"]:
        """Attributes on which the judge is better than chance, shape (a,); its scores of the others are not used."""
        return (self.auroc_low > 0.5) & (self.gain > 0)


def assess(judge: Judge, images: Image | ImageBytes, attributes: Attributes, batch_size: int = 256) -> JudgeQuality:
    """Compare a judge with the labels of images that it was not trained on.

    Args:
        judge: the judge.
        images: shape (n, c, h, w), bytes or floats in [-1, 1].
        attributes: labels, shape (n, a), of 0, 1 and NaN (unknown).
        batch_size: images at a time.

    Raises:
        InvalidOptionError: the judge returns another shape than (b, a), or numbers outside [0, 1].
    """
    scores = judged(judge, images, attributes.shape[1], batch_size)
    known = attributes.where(~scores.isnan(), torch.nan)
    filled = scores.nan_to_num(0.5)
    table = torch.from_numpy(auroc(filled, known)).float().diagonal()
    on, off = known == 1, known == 0
    with_it, without = (_mean_where(scores, rows) for rows in (on, off))
    right = (_mean_where((scores > 0.5).float(), on) + _mean_where((scores <= 0.5).float(), off)) / 2
    return JudgeQuality(
        table,
        table - 1.645 * _auroc_error(table, on.sum(0), off.sum(0)),
        right,
        with_it - without,
        _apart(filled, known),
    )


def judged(judge: Judge, images: Image | ImageBytes, attributes: int, batch_size: int = 256) -> Float[Tensor, "n a"]:
    """Return the checked scores of all images, shape (n, a), on the CPU. The arguments are those of `assess`."""
    scores = torch.cat([judge(as_floats(x)).detach().float().cpu() for x in torch.split(images, batch_size)])
    if scores.shape != (len(images), attributes):
        raise InvalidOptionError(
            f"the judge returns scores of shape {tuple(scores.shape)} for {len(images)} images; "
            f"it must return one for each of the {attributes} attributes"
        )
    known = scores[~scores.isnan()]
    if len(known) and not (float(known.min()) >= 0 and float(known.max()) <= 1):
        raise InvalidOptionError(
            f"the judge returns scores from {float(known.min()):g} to {float(known.max()):g}; "
            "they must be probabilities in [0, 1]: end it with a sigmoid"
        )
    return scores


def _mean_where(values: Float[Tensor, "n a"], rows: Bool[Tensor, "n a"]) -> Float[Tensor, " a"]:
    return values.where(rows, torch.nan).nanmean(0)


def _auroc_error(area: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the standard error of AUROCs (Hanley & McNeil 1982); a perfect judge counts as having one image wrong."""
    a = torch.minimum(area, 1 - 0.5 / torch.minimum(positive, negative).clamp_min(1))
    one, two = a / (2 - a), 2 * a * a / (1 + a)
    spread = a * (1 - a) + (positive - 1) * (one - a * a) + (negative - 1) * (two - a * a)
    return (spread / (positive * negative).clamp_min(1)).clamp_min(0).sqrt()


def _apart(scores: Float[Tensor, "n a"], known: Attributes) -> Float[Tensor, "a a"]:
    """Return `JudgeQuality.apart`."""
    columns = []
    for column in known.T:
        strata = [column == value for value in (0, 1) if bool((column == value).any())]
        areas = [torch.from_numpy(auroc(scores[rows], known[rows])).float().diagonal() for rows in strata]
        columns.append(torch.stack(areas).nanmean(0) if areas else torch.full((len(known.T),), torch.nan))
    return torch.stack(columns, dim=1)


# ---- the model's own view --------------------------------------------------------------------------------------------


class AttributeReader:
    """Logistic regressions of attributes on standardised activations.

    Args:
        s: activations of real images, shape (n, m).
        attributes: labels of the same images, shape (n, a), of 0, 1 and NaN (unknown).
    """

    def __init__(self, s: Activations, attributes: Attributes) -> None:
        self.mean, self.std = mean_and_std(s)
        z = (s - self.mean) / self.std
        self.weights = torch.from_numpy(logistic_weights(z, attributes)).float()

    def __call__(self, s: Activations) -> Float[Tensor, "b a"]:
        """Return the log odds of each attribute, shape (b, a)."""
        logits: Tensor = (s - self.mean) / self.std @ self.weights[:-1] + self.weights[-1]
        return logits


class ProbeJudge:
    """A judge that encodes the picture with the model itself, and reads the activations with an `AttributeReader`.

    It needs no training of its own, but it shares the model's errors: whatever the encoder takes for a smile is one.

    Args:
        model: the model whose encoder reads the pictures.
        s: activations of real images, shape (n, m).
        attributes: labels of the same images, shape (n, a), of 0, 1 and NaN (unknown).
    """

    def __init__(self, model: PatronusModule, s: Activations, attributes: Attributes) -> None:
        self.model, self.reader = model, AttributeReader(s, attributes)

    def __call__(self, images: Image) -> Float[Tensor, "b a"]:
        """Return the probability of each attribute, shape (b, a)."""
        return torch.sigmoid(self.reader(encode(self.model, images)))


# ---- an independent network ------------------------------------------------------------------------------------------


def train_judge(
    images: Image | ImageBytes,
    attributes: Attributes,
    epochs: int = 6,
    batch_size: int = 128,
    lr: float = 2e-3,
    seed: int = 0,
) -> SmallCNN:
    """Train a small network as a judge that is independent of the model.

    It minimises E[log(1 + exp(z)) − y z] over the known attributes with AdamW. A little noise is added to the images,
    since generated pictures have some too. 8,000 images of 32 × 32 pixels take half a minute on one core.

    Args:
        images: shape (n, c, h, w), bytes or floats in [-1, 1].
        attributes: labels, shape (n, a), of 0, 1 and NaN (unknown).
        epochs: passes over the images.
        batch_size: images of a training step.
        lr: highest learning rate of the one-cycle schedule.
        seed: seed of weights, order and noise.

    Raises:
        InvalidOptionError: fewer than two images.
    """
    if len(images) < 2:
        raise InvalidOptionError(f"a judge cannot be trained on {len(images)} image(s); give at least 2")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = SmallCNN(images.shape[1], attributes.shape[1])
    steps = epochs * -(-len(images) // batch_size)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps + 1)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(images), generator=generator), batch_size):
            x = as_floats(images[rows])
            x = x + 0.1 * torch.randn(x.shape, generator=generator)
            loss = _cross_entropy(judge.logits(x), attributes[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return judge.eval()


def _cross_entropy(logits: Tensor, attributes: Attributes) -> Tensor:
    known = ~attributes.isnan()
    return F.binary_cross_entropy_with_logits(logits[known], attributes[known])


# ---- the truth -------------------------------------------------------------------------------------------------------


class NearestPortrait:
    """An exact judge for data whose every possible picture is known.

    With T₁ the nearest of the ideal pictures that have an attribute, and T₀ the nearest that lack it, the score is

        score = (‖x − T₀‖² − ‖x − T₁‖²) / (2 ‖T₁ − T₀‖²) + ½,  held in [0, 1]:

    0 at T₀, 1 at T₁, and linear in between.

    Args:
        portraits: ideal pictures, one for each combination of attributes, shape (k, c, h, w) in [-1, 1].
        attributes: their attributes, shape (k, a), of 0 and 1.
    """

    def __init__(self, portraits: Image, attributes: Attributes) -> None:
        self.flat, self.has = portraits.flatten(1), attributes == 1
        self.norms = self.flat.square().sum(1)

    def __call__(self, images: Image) -> Float[Tensor, "b a"]:
        """Return the score of each attribute, shape (b, a)."""
        x = images.flatten(1).to(self.flat)
        distance = self.norms - 2 * x @ self.flat.T  # ‖x − T‖² up to ‖x‖²
        scores = []
        for has in self.has.T:
            (d1, t1), (d0, t0) = (distance.masked_fill(~rows, torch.inf).min(1) for rows in (has, ~has))
            between = (self.flat[t1] - self.flat[t0]).square().sum(1).clamp_min(1e-12)
            scores.append(((d0 - d1) / (2 * between) + 0.5).clamp(0, 1))
        return torch.stack(scores, dim=1)


# ---- the user's classifier ---------------------------------------------------------------------------------------


class NamedJudge:
    """A judge that puts the columns of a classifier in the order of the data's attributes.

    Args:
        classifier: function from images in [-1, 1] to probabilities, shape (b, k).
        knows: names of the k attributes that it knows.
        wanted: names of the data's a attributes; those that the classifier does not know get NaN.

    Raises:
        InvalidOptionError: the classifier knows none of them.
    """

    def __init__(self, classifier: Judge, knows: Sequence[str], wanted: Sequence[str]) -> None:
        self.classifier = classifier
        self.columns = np.array([list(knows).index(name) if name in knows else -1 for name in wanted], dtype=np.int64)
        if (self.columns < 0).all():
            raise InvalidOptionError(f"the judge knows {', '.join(knows)}, but the data have {', '.join(wanted)}")

    def __call__(self, images: Image) -> Float[Tensor, "b a"]:
        """Return the probability of each attribute, shape (b, a); NaN for unknown ones."""
        scores = self.classifier(images)
        columns = torch.from_numpy(self.columns).to(scores.device)
        return scores[:, columns.clamp_min(0)].where(columns >= 0, torch.nan)
