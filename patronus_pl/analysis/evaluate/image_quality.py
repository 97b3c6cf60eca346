"""The quality of decoded images: how close to their originals, what they preserve, how far from real ones as a set."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from patronus_pl.analysis.attributes.judges import Judge, judged, train_judge
from patronus_pl.analysis.editing.decoding import decode_from_noise
from patronus_pl.analysis.evaluate.networks import Networks
from patronus_pl.analysis.evaluate.plan import EvaluationPlan
from patronus_pl.analysis.protocol import Picked, Section, attempt, pixel_hash
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.metrics import (
    InceptionFeatures,
    cached_arrays,
    distance_name,
    extract_features,
    frechet_distance,
    inception_score,
    kernel_distance,
    lpips,
    mean_image_error,
    mse,
    network_hash,
    precision_recall,
    psnr,
    ssim,
)
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.types import Activations, Image, ImageBytes

NEIGHBOURS = 3
"""Number of nearest neighbours of precision and recall."""
SUBSET = 1000
"""Number of images in a subset of the kernel distance; half of all, if that is fewer."""
JUDGE_EPOCHS = 4
"""Passes of the judge over the training images."""
NO_ATTRIBUTES = "the data have no attributes; give a table of them to measure what s knows and keeps"
NO_PRIOR = "no prior was given; give its checkpoint with --evaluation.prior"


class SampledImages(NamedTuple):
    """All images that an evaluation draws.

    Attributes:
        generated: from s of test images and random noise.
        inverted: from s of test images and their own inverted noise.
        others: from s of training images; None without a prior. The distances are to the test images, so that these
            images' own s come closer than those of any prior can: `others` is what a perfect prior would reach.
        imagined: from s that the prior draws; None without a prior.
    """

    generated: ImageBytes
    inverted: ImageBytes
    others: ImageBytes | None
    imagined: ImageBytes | None


def generate(model: PatronusModule, s: Activations, rows: Sequence[int], sampling: Sampling) -> ImageBytes:
    """Draw an image for each row of `s`, see `decode_from_noise`."""
    return torch.cat(list(decode_from_noise(model, s, rows, sampling)))


def reconstruction(
    shown: Picked,
    generated: ImageBytes,
    inverted: UInt8[Tensor, "k c h w"],
    plan: EvaluationPlan,
    network: nn.Module | str,
) -> Section:
    """Return MSE, PSNR, SSIM and LPIPS of images decoded from random and from inverted noise, means over images.

    Args:
        shown: the originals.
        generated: images from random noise, the first ones in the order of the originals.
        inverted: images from inverted noise, in the order of the first originals.
        plan: how the images were drawn.
        network: the network of LPIPS, or why there is none.
    """
    n = len(shown.images)
    return {
        "protocol": {**shown.protocol(), "inverted": len(inverted), **plan.sampler_protocol()},
        "mse_mean_image": mean_image_error(as_floats(x) for x in torch.split(shown.bytes, 256)),
        "random": _likeness(generated[:n], shown.bytes, network),
        "inverted": _likeness(inverted, shown.bytes[: len(inverted)], network),
    }


def _likeness(pictures: ImageBytes, originals: ImageBytes, network: nn.Module | str) -> Section:
    def mean(measure: Callable[[Image, Image], Float[Tensor, " b"]]) -> float:
        pairs = zip(torch.split(pictures, 256), torch.split(originals, 256), strict=True)
        return float(torch.cat([measure(as_floats(a), as_floats(b)) for a, b in pairs]).mean())

    section: Section = {"mse": mean(mse), "psnr": mean(psnr), "ssim": attempt(lambda: mean(ssim))}
    if isinstance(network, str):
        return {**section, "lpips": {"absent": network}}
    return {**section, "lpips": attempt(lambda: mean(lambda a, b: lpips(a, b, network)))}


@dataclass(frozen=True)
class Preservation:
    """What `preservation` found, for a attributes; NaN for an attribute that the judge does not know.

    Attributes:
        same: (a,) share of images where the judge reads the attribute the same in the original and in the picture.
        by_chance: (a,) the same share, with the picture of another image (the one before).
        judge_accuracy: (a,) share of originals that the judge reads as they are labelled; NaN without labels.
    """

    same: Float[Tensor, " a"]
    by_chance: Float[Tensor, " a"]
    judge_accuracy: Float[Tensor, " a"]


def preservation(
    judge: Judge, images: ImageBytes, pictures: ImageBytes, attributes: Float[Tensor, "n a"]
) -> Preservation:
    """Compare what a judge reads in n images and in n pictures that were decoded from their activations.

    Args:
        judge: gives each attribute of an image a score.
        images: the originals, shape (n, c, h, w).
        pictures: the decoded pictures, shape (n, c, h, w).
        attributes: labels, shape (n, a), of 0, 1 and NaN (unknown); they measure the judge's own accuracy.
    """
    before, after = (judged(judge, x, attributes.shape[1]) for x in (images, pictures))
    known, seen, kept = ~before.isnan(), before > 0.5, after > 0.5

    def share(equal: Bool[Tensor, "n a"], counted: Bool[Tensor, "n a"]) -> Float[Tensor, " a"]:
        return torch.where(counted, equal.float(), torch.nan).nanmean(0)

    right = share(seen == (attributes == 1), known & ~attributes.isnan())
    return Preservation(share(seen == kept, known), share(seen == kept.roll(1, 0), known), right)


def preserved(
    learned: Picked, shown: Picked, generated: ImageBytes, names: Sequence[str], plan: EvaluationPlan
) -> Section:
    """Train a judge, and return which attributes it reads the same in images and in pictures of the same s.

    Args:
        learned: training images, from which the judge learns.
        shown: the originals.
        generated: pictures from random noise, the first ones in the order of the originals.
        names: names of the attributes.
        plan: how the pictures were drawn.
    """
    if not names:
        return {"absent": NO_ATTRIBUTES}
    # Callers evaluate in inference mode, in which nothing is learned.
    with torch.inference_mode(False), torch.enable_grad():
        judge = train_judge(learned.bytes, torch.from_numpy(learned.attributes), JUDGE_EPOCHS, seed=plan.sampling.seed)
    found = preservation(judge, shown.bytes, generated[: len(shown.images)], torch.from_numpy(shown.attributes))
    table = vars(found)
    return {
        "protocol": {
            **shown.protocol(),
            **plan.sampler_protocol(),
            "judge": {"network": "SmallCNN", "epochs": JUDGE_EPOCHS, "seed": plan.sampling.seed, **learned.protocol()},
        },
        **{name: float(column.nanmean()) for name, column in table.items()},
        "per_attribute": {
            name: {column: values[k] for column, values in table.items()} for k, name in enumerate(names)
        },
    }


def distances(reference: Picked, drawn: SampledImages, plan: EvaluationPlan, networks: Networks) -> Section:
    """Return Fréchet and kernel distance, precision and recall, and Inception score of images from real s and a prior.

    Args:
        reference: the real images.
        drawn: the images to compare with them.
        plan: how these were drawn.
        networks: the feature network, and the folder of its cache.
    """
    network, name = networks.features, distance_name(networks.features)
    known = real_features(network, reference, networks.cache)
    protocol = {
        "reference": reference.protocol(),
        "generated": plan.images,
        **plan.sampler_protocol(),
        "network": type(network).__name__,
        "network_hash": network_hash(network),
        "subsets": plan.subsets,
        "neighbours": NEIGHBOURS,
    }
    real = _compare(network, known, drawn.generated, plan)
    missing = {"FID": {"absent": networks.no_fid}} if networks.no_fid else {}
    section = {"protocol": protocol, **missing, "from_real_s": real}
    if drawn.others is None or drawn.imagined is None:
        return {**section, "from_prior": {"absent": NO_PRIOR}}
    training, prior = (_compare(network, known, images, plan) for images in (drawn.others, drawn.imagined))
    return {
        **section,
        "from_training_s": training,
        "from_prior": prior,
        "prior_minus_real_s": prior[name] - real[name],
        "prior_minus_training_s": prior[name] - training[name],
        # The divisor is 0 only where a model ignores s: otherwise no two samples are alike.
        "prior_over_training_s": prior[name] / training[name] if training[name] else math.nan,
    }


def real_features(network: nn.Module, picked: Picked, cache: str | None) -> Float[Tensor, "n d"]:
    """Return the features of real images, shape (n, d), from a cache whose key is the network and every pixel.

    Args:
        network: the feature network.
        picked: the images.
        cache: folder of the cache; None computes the features each time.
    """

    def compute() -> dict[str, NDArray[np.float32]]:
        return {"features": _features(network, picked.bytes).numpy()}

    if cache is None:
        return torch.from_numpy(compute()["features"])
    key = {"network": network_hash(network), "pixels": pixel_hash(picked.images)}
    return torch.from_numpy(cached_arrays(cache, key, compute)["features"])


def _features(network: nn.Module, images: ImageBytes) -> Float[Tensor, "n d"]:
    device = next(iter(network.parameters()), torch.zeros(())).device
    return extract_features(network, (as_floats(batch.to(device)) for batch in torch.split(images, 64)))


def _compare(network: nn.Module, real: Float[Tensor, "n d"], images: ImageBytes, plan: EvaluationPlan) -> Section:
    made = _features(network, images)
    size = min(SUBSET, len(real) // 2, len(made) // 2)
    section: Section = {distance_name(network): frechet_distance(real, made)}
    kernel = kernel_distance(real, made, plan.subsets, size, plan.sampling.seed) if size > 1 else (math.nan, math.nan)
    section["kernel_distance"], section["kernel_distance_std"] = kernel
    section.update(
        attempt(lambda: dict(zip(("precision", "recall"), precision_recall(real, made, NEIGHBOURS), strict=True)))
    )
    if isinstance(network, InceptionFeatures):
        section["inception_score"], section["inception_score_std"] = inception_score(network.logits(made))
    else:
        section["inception_score"] = {"absent": "it needs the class logits of Inception, the network of the FID"}
    return section
