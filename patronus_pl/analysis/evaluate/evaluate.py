"""`evaluate`: every number that says how good a model is, each section with the protocol it was measured by.

What is missing is said in words where its numbers would be: `{"absent": why and what to do}`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.editing.decoding import decode, encode
from patronus_pl.analysis.editing.inverting import invert
from patronus_pl.analysis.evaluate.image_quality import (
    NO_PRIOR,
    Networks,
    distances,
    generate,
    preserved,
    reconstruction,
)
from patronus_pl.analysis.evaluate.latents import latent_quality, prototype_health
from patronus_pl.analysis.evaluate.plan import EvaluationPlan
from patronus_pl.analysis.evaluate.prior_gap import prior_protocol, prior_quality, sample
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.analysis.explain.use import TIMES, use_ratio
from patronus_pl.analysis.progress import counting
from patronus_pl.analysis.protocol import Picked, Section, attempt
from patronus_pl.analysis.subject import Subject
from patronus_pl.modules import LatentPrior, PatronusModule
from patronus_pl.pixels import as_bytes, as_floats
from patronus_pl.ranks import Ranks
from patronus_pl.types import Image, ImageBytes

USED = 512
"""Images on which the use of s is measured."""


@evaluating
def evaluate(
    model: PatronusModule,
    train: Subject,
    test: Subject,
    plan: EvaluationPlan,
    networks: Networks,
    prior: LatentPrior | None,
    ranks: Ranks = Ranks(),  # noqa: B008  (a tuple)
) -> dict[str, Section]:
    """All sections: use of s, prototypes, latents, reconstruction, preservation, distances, prior.

    The images from real s serve reconstruction (with random noise), preservation and distances alike: image k is
    decoded from s of test image k and noise of its own. Several processes share the sampling, where nearly all the time
    goes, batch by batch; then the first measures what all have made, and the others wait.

    Args:
        model: a trained model.
        train: training images: probes and judge learn from them.
        test: held-out images: all else is measured on them.
        plan: how much, and how.
        networks: what looks at images.
        prior: draws activations from nothing; None for none.
        ranks: the processes that do this together.

    Returns:
        The sections; nothing on other processes than the first.

    Raises:
        CheckpointError: the prior draws another number of activations.
    """
    if prior is not None:
        prior.check_fits(model.prototypes.count)
    shown = Picked.first(test, plan.images)
    pictures = _pictures(model, shown, Picked.first(train, plan.images), plan, prior, ranks)
    with ranks.first_alone():
        return {} if pictures is None else _sections(model, train, test, shown, pictures, plan, networks, prior)


class Pictures(NamedTuple):
    """All that is sampled: from s of test images, from inverted noise, and with a prior from its s and those of others.

    The test images are those that distances are to, so that their own s are closer than any prior's can be: what a
    perfect one gets is the distance from s of training images.
    """

    generated: ImageBytes
    inverted: ImageBytes
    others: ImageBytes | None
    imagined: ImageBytes | None


def _pictures(
    model: PatronusModule, shown: Picked, learned: Picked, plan: EvaluationPlan, prior: LatentPrior | None, ranks: Ranks
) -> Pictures | None:
    """Those that all processes made; None on others than the first."""
    images = as_floats(shown.bytes[: plan.inverted])
    drawn, inverted = (ranks.batches(n, plan.sampling.batch_size) for n in (plan.images, len(images)))
    total = sum(map(len, drawn)) * plan.sampling.steps * (1 if prior is None else 3)
    total += sum(map(len, inverted)) * (2 * plan.sampling.steps + 1)
    with counting(model.denoiser, total, shown=ranks.rank == 0) as say:
        say("from real s")
        generated = ranks.in_turn(_drawn(model, _of_images(model, shown, plan), drawn, plan))
        say("from inverted noise")
        reconstructed = ranks.in_turn([_inverted(model, images[list(rows)], plan) for rows in inverted])
        others: list[ImageBytes] = []
        imagined: list[ImageBytes] = []
        if prior is not None:
            say("from s of training images")
            others = ranks.in_turn(_drawn(model, _of_images(model, learned, plan), drawn, plan))
            say("from the prior")
            imagined = ranks.in_turn(_drawn(model, sample(prior, plan.images, plan.sampling.seed), drawn, plan))
    if ranks.rank > 0:
        return None
    more = [torch.cat(batches) if batches else None for batches in (others, imagined)]
    return Pictures(torch.cat(generated), torch.cat(reconstructed), *more)


def _of_images(model: PatronusModule, picked: Picked, plan: EvaluationPlan) -> Float[Tensor, "n m"]:
    """As many as are drawn; few images serve in turn."""
    return encode(model, picked.bytes, plan.sampling.batch_size)[torch.arange(plan.images) % len(picked.images)]


def _drawn(
    model: PatronusModule, s: Float[Tensor, "n m"], batches: Sequence[range], plan: EvaluationPlan
) -> list[ImageBytes]:
    return [generate(model, s[list(rows)], rows, plan.sampling) for rows in batches]


def _sections(
    model: PatronusModule,
    train: Subject,
    test: Subject,
    shown: Picked,
    pictures: Pictures,
    plan: EvaluationPlan,
    networks: Networks,
    prior: LatentPrior | None,
) -> dict[str, Section]:
    learned, reference = Picked.first(train, plan.latents), Picked.first(test, plan.reference)
    held_out = Picked.first(test, plan.latents)
    size, seed = plan.sampling.batch_size, plan.sampling.seed
    s_train = encode(model, learned.bytes, size)
    generated, inverted, others, imagined = pictures
    return {
        "use": attempt(lambda: _use(model, Picked.first(test, USED), plan)),
        "prototypes": attempt(lambda: prototype_health(s_train, model.prototypes.vectors.detach(), learned)),
        "latents": attempt(lambda: latent_quality(s_train, learned, train, seed)),
        "reconstruction": reconstruction(shown, generated, inverted, plan, networks.lpips),
        "preservation": attempt(lambda: preserved(learned, shown, generated, train.attribute_names, plan)),
        "distances": distances(reference, generated, others, imagined, plan, networks),
        "prior": {"absent": NO_PRIOR}
        if prior is None
        else {
            "protocol": {
                "train": learned.protocol(),
                "test": held_out.protocol(),
                **prior_protocol(prior, seed),
            },
            **attempt(
                lambda: prior_quality(
                    prior, s_train, encode(model, held_out.bytes, plan.sampling.batch_size), plan.sampling.seed
                )
            ),
        },
    }


# ---- s ---------------------------------------------------------------------------------------------------------------


def _use(model: PatronusModule, picked: Picked, plan: EvaluationPlan) -> Section:
    times = [t * model.schedule.timesteps // 1000 for t in TIMES]
    used = use_ratio(model, as_floats(picked.bytes), times, plan.sampling.seed, plan.sampling.batch_size)
    return {
        "protocol": {
            **picked.protocol(),
            "t": times,
            "timesteps": model.schedule.timesteps,
            "seed": plan.sampling.seed,
        },
        "loss_own": used.own,
        "loss_other": used.other,
        "ratio": used.ratio,
    }


def _inverted(model: PatronusModule, images: Image, plan: EvaluationPlan) -> ImageBytes:
    inverted = invert(model, images, plan.sampling)
    return as_bytes(decode(model, inverted.x_T, inverted.s, plan.sampling))


# ---- the prior -------------------------------------------------------------------------------------------------------
