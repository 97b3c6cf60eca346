"""Judges: which attributes does a picture show? A function from images to a score an attribute.

Four kinds: a probe on the model's own activations, a small network trained for the purpose, the nearest of a set of
ideal portraits, and any classifier of the user's. What a judge is worth is measured on real images before it is asked.
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
"""Images in [-1, 1] → scores in [0, 1], one an attribute: 1 where it is certainly there. NaN where it cannot tell."""

# ---- what a judge is worth -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgeQuality:
    """What `assess` found on real images; NaN for an attribute with one value only.

    Attributes:
        auroc: (a,) chance that of two images, one with the attribute and one without, the judge ranks the right one
            higher.
        auroc_low: (a,) lower end of its one-sided 95 % interval.
        accuracy: (a,) share of images on which score > ½ is right, images with and without counted alike.
        gain: (a,) mean score with the attribute minus mean score without it: 1 for a judge that is always right and
            sure. What a judge's mean score moves by, divided by the gain, is what the share of images moves by
            (Rogan & Gladen 1978).
        apart: (a, a) AUROC of the row's attribute among images that agree on the column's: ½ where the judge reads one
            for the other, NaN where no two images tell them apart.
    """

    auroc: Float[Tensor, " a"]
    auroc_low: Float[Tensor, " a"]
    accuracy: Float[Tensor, " a"]
    gain: Float[Tensor, " a"]
    apart: Float[Tensor, "a a"]

    @property
    def usable(self) -> Bool[Tensor, " a"]:
        """(a,) attributes on which it is better than chance; no other judgement counts."""
        return (self.auroc_low > 0.5) & (self.gain > 0)


def assess(judge: Judge, images: Image | ImageBytes, attributes: Attributes, batch_size: int = 256) -> JudgeQuality:
    """Compare a judge with the truth, on images that it was not trained on.

    Args:
        judge: the judge.
        images: (n, c, h, w), bytes or floats in [-1, 1].
        attributes: (n, a) of 0, 1 and NaN (unknown).
        batch_size: images at a time.

    Raises:
        InvalidOptionError: the judge returns another shape, or numbers outside [0, 1].
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
    """Scores of many images, on the CPU, checked."""
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
    """Standard error (Hanley & McNeil 1982); a perfect judge is credited with one mistaken image."""
    a = torch.minimum(area, 1 - 0.5 / torch.minimum(positive, negative).clamp_min(1))
    one, two = a / (2 - a), 2 * a * a / (1 + a)
    spread = a * (1 - a) + (positive - 1) * (one - a * a) + (negative - 1) * (two - a * a)
    return (spread / (positive * negative).clamp_min(1)).clamp_min(0).sqrt()


def _apart(scores: Float[Tensor, "n a"], known: Attributes) -> Float[Tensor, "a a"]:
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
        s: (n, m) activations of real images.
        attributes: (n, a) of the same images; 0, 1 or NaN.
    """

    def __init__(self, s: Activations, attributes: Attributes) -> None:
        self.mean, self.std = mean_and_std(s)
        z = (s - self.mean) / self.std
        self.weights = torch.from_numpy(logistic_weights(z, attributes)).float()

    def __call__(self, s: Activations) -> Float[Tensor, "b a"]:
        """Log odds of each attribute."""
        logits: Tensor = (s - self.mean) / self.std @ self.weights[:-1] + self.weights[-1]
        return logits


class ProbeJudge:
    """An `AttributeReader` of the activations of the picture, encoded again.

    It costs nothing and shares the model's view: what the encoder takes for a smile is a smile to it.

    Args:
        model: whose encoder reads the pictures.
        s: (n, m) activations of real images.
        attributes: (n, a) of the same images; 0, 1 or NaN.
    """

    def __init__(self, model: PatronusModule, s: Activations, attributes: Attributes) -> None:
        self.model, self.reader = model, AttributeReader(s, attributes)

    def __call__(self, images: Image) -> Float[Tensor, "b a"]:
        """Probabilities."""
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
    """A network that knows nothing of the model: half a minute on a core for 8,000 images of 32 × 32 pixels.

    min E[ log(1 + exp(z)) − y z ] over known attributes by AdamW; images get a little noise, since generated pictures
    have some too.

    Args:
        images: (n, c, h, w), bytes or floats in [-1, 1].
        attributes: (n, a) of 0, 1 and NaN (unknown).
        epochs: passes over the images.
        batch_size: images a step.
        lr: learning rate at its highest.
        seed: of weights, order and noise.

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
    """An exact judge where every possible picture is known: how far the image lies on the way to the attribute.

    With T₁ the nearest of the ideal pictures that have an attribute, and T₀ the nearest that lack it,

        score = (‖x − T₀‖² − ‖x − T₁‖²) / (2 ‖T₁ − T₀‖²) + ½,  held in [0, 1]:

    0 at T₀, 1 at T₁, and linear in between.

    Args:
        portraits: (k, c, h, w) in [-1, 1]: every combination of attributes once.
        attributes: (k, a) of 0 and 1.
    """

    def __init__(self, portraits: Image, attributes: Attributes) -> None:
        self.flat, self.has = portraits.flatten(1), attributes == 1
        self.norms = self.flat.square().sum(1)

    def __call__(self, images: Image) -> Float[Tensor, "b a"]:
        """Scores."""
        x = images.flatten(1).to(self.flat)
        distance = self.norms - 2 * x @ self.flat.T  # ‖x − T‖² up to ‖x‖²
        scores = []
        for has in self.has.T:
            (d1, t1), (d0, t0) = (distance.masked_fill(~rows, torch.inf).min(1) for rows in (has, ~has))
            between = (self.flat[t1] - self.flat[t0]).square().sum(1).clamp_min(1e-12)
            scores.append(((d0 - d1) / (2 * between) + 0.5).clamp(0, 1))
        return torch.stack(scores, dim=1)


# ---- a classifier of the user's --------------------------------------------------------------------------------------


class NamedJudge:
    """A classifier whose columns are named, in the order of the data's attributes; NaN for those it does not know.

    Args:
        classifier: images in [-1, 1] → probabilities (b, k).
        knows: its k names.
        wanted: the data's a names.

    Raises:
        InvalidOptionError: it knows none of them.
    """

    def __init__(self, classifier: Judge, knows: Sequence[str], wanted: Sequence[str]) -> None:
        self.classifier = classifier
        self.columns = np.array([list(knows).index(name) if name in knows else -1 for name in wanted], dtype=np.int64)
        if (self.columns < 0).all():
            raise InvalidOptionError(f"the judge knows {', '.join(knows)}, but the data have {', '.join(wanted)}")

    def __call__(self, images: Image) -> Float[Tensor, "b a"]:
        """Probabilities, NaN where it does not know."""
        scores = self.classifier(images)
        columns = torch.from_numpy(self.columns).to(scores.device)
        return scores[:, columns.clamp_min(0)].where(columns >= 0, torch.nan)
