"""Images decoded from activations: how close to their originals, what is preserved, how far from real ones as a set."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from patronus_pl.analysis.attributes.judges import Judge, judged, train_judge
from patronus_pl.analysis.editing.decoding import decode_from_noise
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
"""Of precision and recall."""
SUBSET = 1000
"""Images in a subset of the kernel distance; half of all, if that is fewer."""
JUDGE_EPOCHS = 4
NO_ATTRIBUTES = "the data have no attributes; give a table of them to measure what s knows and keeps"
NO_PRIOR = "no prior was given; give its checkpoint with --evaluation.prior"


@dataclass(frozen=True)
class Networks:
    """What looks at images.

    Attributes:
        features: of distances, see `patronus_pl.metrics.features`.
        no_fid: why these are not Inception's, if they are not.
        lpips: its network, or why there is none.
        cache: folder for the features of real images; None computes them each time.
    """

    features: nn.Module
    no_fid: str = ""
    lpips: nn.Module | str = "not asked for"
    cache: str | None = None


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
    """MSE, PSNR, SSIM, LPIPS of pictures decoded from random and from inverted noise, means over images.

    Args:
        shown: the originals.
        generated: from random noise, the first ones in the order of the originals.
        inverted: from inverted noise, of the first originals.
        plan: how they were made.
        network: LPIPS', or why there is none.
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
    """What `preservation` found; NaN for an attribute that the judge does not know.

    Attributes:
        same: (a,) share of images of which the judge reads the attribute the same in the original and in the picture.
        by_chance: (a,) the same, with the picture of another image (the one before).
        judge_accuracy: (a,) share of originals that the judge reads as they are labelled; NaN without labels.
    """

    same: Float[Tensor, " a"]
    by_chance: Float[Tensor, " a"]
    judge_accuracy: Float[Tensor, " a"]


def preservation(
    judge: Judge, images: ImageBytes, pictures: ImageBytes, attributes: Float[Tensor, "n a"]
) -> Preservation:
    """How much of what a judge sees in n images it sees in n pictures of them.

    Args:
        judge: reads attributes.
        images: (n, c, h, w) originals.
        pictures: (n, c, h, w) decoded from their activations.
        attributes: (n, a) of 0, 1 and NaN (unknown), for the judge's own accuracy.
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
    """Which attributes a judge reads the same in image and picture: s was the same, the noise another.

    Args:
        learned: training images, from which the judge learns.
        shown: the originals.
        generated: pictures from random noise, the first ones in the order of the originals.
        names: of the attributes.
        plan: how the pictures were made.
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


def distances(
    reference: Picked,
    generated: ImageBytes,
    others: ImageBytes | None,
    imagined: ImageBytes | None,
    plan: EvaluationPlan,
    networks: Networks,
) -> Section:
    """Fréchet and kernel distance, precision and recall, Inception score, of images from real s and from the prior.

    Args:
        reference: real images.
        generated: from s of the reference's own images.
        others: from s of other real images, which is what a perfect prior would draw from; None without a prior.
        imagined: from s of the prior; None without one.
        plan: how they were made.
        networks: whose features.
    """
    network, name = networks.features, distance_name(networks.features)
    known = real_features(network, reference, networks.cache)
    real = _compare(network, known, generated, plan)
    section = {
        "protocol": {
            "reference": reference.protocol(),
            "generated": plan.images,
            **plan.sampler_protocol(),
            "network": type(network).__name__,
            "network_hash": network_hash(network),
            "subsets": plan.subsets,
            "neighbours": NEIGHBOURS,
        },
        **({"FID": {"absent": networks.no_fid}} if networks.no_fid else {}),
        "from_real_s": real,
    }
    if others is None or imagined is None:
        return {**section, "from_prior": {"absent": NO_PRIOR}}
    training, prior = (_compare(network, known, images, plan) for images in (others, imagined))
    return {
        **section,
        "from_training_s": training,
        "from_prior": prior,
        "prior_minus_real_s": prior[name] - real[name],
        "prior_minus_training_s": prior[name] - training[name],
        # Never 0 but where a model ignores s: no two samples are alike.
        "prior_over_training_s": prior[name] / training[name] if training[name] else math.nan,
    }


def real_features(network: nn.Module, picked: Picked, cache: str | None) -> Float[Tensor, "n d"]:
    """Features of real images, from the cache if there is one: its key are the network and every pixel."""

    def compute() -> Mapping[str, Any]:
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
    section["kernel_distance"], section["kernel_distance_std"] = (
        kernel_distance(real, made, plan.subsets, size, plan.sampling.seed)
        if size > 1
        else (float("nan"), float("nan"))
    )
    section.update(
        attempt(lambda: dict(zip(("precision", "recall"), precision_recall(real, made, NEIGHBOURS), strict=True)))
    )
    if isinstance(network, InceptionFeatures):
        section["inception_score"], section["inception_score_std"] = inception_score(network.logits(made))
    else:
        section["inception_score"] = {"absent": "it takes Inception's class logits"}
    return section
