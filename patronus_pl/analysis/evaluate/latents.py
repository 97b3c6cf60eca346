"""What activations know of attributes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.evaluate.image_quality import (
    NO_ATTRIBUTES,
)
from patronus_pl.analysis.explain.census import census
from patronus_pl.analysis.protocol import FOLDS, Picked, Section, attempt
from patronus_pl.analysis.subject import Subject
from patronus_pl.metrics import dci, linear_probe, total_auroc_difference
from patronus_pl.types import Activations


def prototype_health(s: Activations, vectors: Float[Tensor, "m d"], picked: Picked) -> Section:
    """Whether prototypes live and differ: the census, without the global ones, which similarity maps would show.

    Args:
        s: (n, m) activations.
        vectors: (m, d) the prototypes. `nearest_cosine` is the mean cosine between one and the next.
        picked: the images that s is of.
    """
    found = census(s, vectors)
    numbers = {name: value for name, value in found.summary().items() if name != "global"}
    return {"protocol": picked.protocol(), **numbers, "nearest_cosine": float(found.neighbour_cosine.mean())}


def latent_quality(s: Activations, picked: Picked, subject: Subject, seed: int) -> Section:
    """What activations know of attributes: linear probe, by kind of attribute and as classes; TAD; DCI.

    Args:
        s: (n, m) activations.
        picked: the images they are of.
        subject: names and kinds of the attributes.
        seed: of the folds.
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
    """Means over local and global attributes, and how far the former are ahead."""
    means = {}
    for kind in ("local", "global"):
        found = auroc[[k for k, other in enumerate(kinds) if other == kind]]
        means[kind] = float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
    return {**means, "local_minus_global": means["local"] - means["global"]}


def _classes(s: Activations, y: Float[np.ndarray, "n a"], seed: int) -> Section:
    """Accuracy of one multinomial probe, if each image belongs to exactly one of the attributes."""
    if y.shape[1] < 3 or not (np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()):
        return {"absent": "the attributes are no classes: more or less than one holds in some images"}
    probe = linear_probe(s, y.argmax(1), FOLDS, seed)
    return {"accuracy": probe.score, "std": probe.std}
