"""Numbers of the activations: whether prototypes vary and differ, and what they know of attributes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.evaluate.image_quality import NO_ATTRIBUTES
from patronus_pl.analysis.explain.census import census
from patronus_pl.analysis.protocol import FOLDS, Picked, Section, attempt
from patronus_pl.analysis.subject import Subject
from patronus_pl.metrics import dci, linear_probe, total_auroc_difference
from patronus_pl.types import Activations


def prototype_health(s: Activations, vectors: Float[Tensor, "m d"], picked: Picked) -> Section:
    """Return whether prototypes vary and differ: the census, without global prototypes, which only maps would show.

    `nearest_cosine` is the mean over prototypes of the cosine to the nearest other one.

    Args:
        s: activations of the images, shape (n, m).
        vectors: the prototypes, shape (m, d).
        picked: the n images.
    """
    found = census(s, vectors)
    numbers = {name: value for name, value in found.summary().items() if name != "global"}
    return {"protocol": picked.protocol(), **numbers, "nearest_cosine": float(found.neighbour_cosine.mean())}


def latent_quality(s: Activations, picked: Picked, subject: Subject, seed: int) -> Section:
    """Return what activations know of attributes: linear probes (also by kind of attribute, and as classes), TAD, DCI.

    Args:
        s: activations of the images, shape (n, m).
        picked: the n images, with their attributes.
        subject: names and kinds of the attributes.
        seed: seed of the folds.
    """
    names, kinds, y = subject.attribute_names, subject.attribute_kind, picked.attributes
    if not names:
        return {"absent": NO_ATTRIBUTES}
    tad = total_auroc_difference(s, y, FOLDS, seed)
    probe = linear_probe(s, y, FOLDS, seed)
    best = zip(tad.best, tad.second, tad.latent, tad.explained, strict=True)
    columns = ("best", "second", "latent", "explained_by_another")
    return {
        "protocol": {**picked.protocol(), "folds": FOLDS, "seed": seed},
        "probe": {
            "auroc": probe.score,
            "std": probe.std,
            **_by_kind(probe.per_attribute, kinds),
            "per_attribute": dict(zip(names, probe.per_attribute, strict=True)),
        },
        "classes": _classes(s, y, seed),
        "tad": {
            "tad": tad.tad,
            "std": tad.std,
            "captured": len(tad.captured),
            "per_captured": tad.per_captured,
            "captured_names": [names[k] for k in tad.captured],
            "per_attribute": {
                name: dict(zip(columns, row, strict=True)) for name, row in zip(names, best, strict=True)
            },
        },
        "dci": attempt(lambda: _dci(s, y, seed)),
    }


def _dci(s: Activations, y: Float[np.ndarray, "n a"], seed: int) -> Section:
    found = dci(s, y, seed=seed)
    return {name: getattr(found, name) for name in ("disentanglement", "completeness", "informativeness")}


def _by_kind(auroc: Float[np.ndarray, " a"], kinds: Sequence[str]) -> Section:
    """Return the mean over local and over global attributes, and how far local ones are ahead."""
    means = {}
    for kind in ("local", "global"):
        found = auroc[[k for k, other in enumerate(kinds) if other == kind]]
        means[kind] = float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
    return {**means, "local_minus_global": means["local"] - means["global"]}


def _classes(s: Activations, y: Float[np.ndarray, "n a"], seed: int) -> Section:
    """Return the accuracy of one multinomial probe, if exactly one attribute holds in each image."""
    if y.shape[1] < 3 or not (np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()):
        return {"absent": "the attributes are no classes: in some images none holds, or more than one"}
    probe = linear_probe(s, y.argmax(1), FOLDS, seed)
    return {"accuracy": probe.score, "std": probe.std}
