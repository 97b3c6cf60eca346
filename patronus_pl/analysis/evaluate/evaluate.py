"""`evaluate`: every number that says how good a model is, each section with the protocol it was measured by.

A section without numbers says why, and what to do: `{"absent": "no prior was given; …"}`.
"""

import torch
from torch import Tensor

from patronus_pl.analysis.editing.decoding import decode, encode
from patronus_pl.analysis.editing.inverting import invert
from patronus_pl.analysis.evaluate.image_quality import (
    NO_PRIOR,
    SampledImages,
    distances,
    generate,
    preserved,
    reconstruction,
)
from patronus_pl.analysis.evaluate.latents import latent_quality, prototype_health
from patronus_pl.analysis.evaluate.networks import Networks
from patronus_pl.analysis.evaluate.plan import EvaluationPlan
from patronus_pl.analysis.evaluate.prior_gap import prior_protocol, prior_quality
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.analysis.explain.use import TIMES, use_ratio
from patronus_pl.analysis.progress import counting
from patronus_pl.analysis.protocol import Picked, Section, attempt
from patronus_pl.analysis.subject import Subject
from patronus_pl.modules import LatentPrior, PatronusModule
from patronus_pl.pixels import as_bytes, as_floats
from patronus_pl.ranks import Ranks
from patronus_pl.types import Activations, Image, ImageBytes

USED = 512
"""Number of images on which the use of s is measured."""


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
    """Measure all sections: use of s, prototypes, latents, reconstruction, preservation, distances, prior.

    The images from real s serve reconstruction (with random noise), preservation and distances alike: image k is
    decoded from s of test image k and noise of its own. Several processes share the sampling, where nearly all the time
    goes, batch by batch; then the first measures what all have drawn, and the others wait.

    Args:
        model: a trained model.
        train: training images, from which probes and judge learn.
        test: held-out images, on which all else is measured.
        plan: how much is measured, and how.
        networks: the networks that look at images.
        prior: draws activations from nothing; None for no prior.
        ranks: the processes that do this together.

    Returns:
        The sections; nothing on other processes than the first.

    Raises:
        CheckpointError: the prior draws another number of activations than the model has prototypes.
    """
    if prior is not None:
        prior.check_fits(model.prototypes.count)
    shown, learned = Picked.first(test, plan.images), Picked.first(train, plan.images)
    drawn = _sampled(model, shown, learned, plan, prior, ranks)
    with ranks.first_alone():
        return {} if drawn is None else _sections(model, train, test, shown, drawn, plan, networks, prior)


def _sampled(
    model: PatronusModule, shown: Picked, learned: Picked, plan: EvaluationPlan, prior: LatentPrior | None, ranks: Ranks
) -> SampledImages | None:
    """Draw this process's share of the images. Return those of all processes on the first, None on any other."""
    images = as_floats(shown.bytes[: plan.inverted])
    to_draw, to_invert = (ranks.batches(n, plan.sampling.batch_size) for n in (plan.images, len(images)))
    total = sum(map(len, to_draw)) * plan.sampling.steps * (1 if prior is None else 3)
    total += sum(map(len, to_invert)) * (2 * plan.sampling.steps + 1)

    with counting(model.denoiser, total, shown=ranks.rank == 0) as say:

        def draw(label: str, s: Activations) -> list[Tensor]:
            say(label)
            return ranks.in_turn([generate(model, s[list(rows)], rows, plan.sampling) for rows in to_draw])

        generated = draw("from real s", _encoded(model, shown, plan))
        say("from inverted noise")
        inverted = ranks.in_turn([_redrawn(model, images[list(rows)], plan) for rows in to_invert])
        more: list[list[Tensor]] = []
        if prior is not None:
            more += [draw("from s of training images", _encoded(model, learned, plan))]
            more += [draw("from the prior", prior.sample(plan.images, plan.sampling.seed).cpu())]
    if ranks.rank > 0:
        return None
    others, imagined = (torch.cat(batches) for batches in more) if more else (None, None)
    return SampledImages(torch.cat(generated), torch.cat(inverted), others, imagined)


def _encoded(model: PatronusModule, picked: Picked, plan: EvaluationPlan) -> Activations:
    """Return the activations of as many images as are drawn; where there are fewer, they serve in turn."""
    return encode(model, picked.bytes, plan.sampling.batch_size)[torch.arange(plan.images) % len(picked.images)]


def _redrawn(model: PatronusModule, images: Image, plan: EvaluationPlan) -> ImageBytes:
    """Return the images, decoded from their own activations and inverted noise."""
    inverted = invert(model, images, plan.sampling)
    return as_bytes(decode(model, inverted.x_T, inverted.s, plan.sampling))


def _sections(
    model: PatronusModule,
    train: Subject,
    test: Subject,
    shown: Picked,
    drawn: SampledImages,
    plan: EvaluationPlan,
    networks: Networks,
    prior: LatentPrior | None,
) -> dict[str, Section]:
    learned, reference = Picked.first(train, plan.latents), Picked.first(test, plan.reference)
    held_out, seed = Picked.first(test, plan.latents), plan.sampling.seed
    s_train = encode(model, learned.bytes, plan.sampling.batch_size)

    def of_prior(prior: LatentPrior) -> Section:
        s_test = encode(model, held_out.bytes, plan.sampling.batch_size)
        protocol = {"train": learned.protocol(), "test": held_out.protocol(), **prior_protocol(prior, seed)}
        return {"protocol": protocol, **attempt(lambda: prior_quality(prior, s_train, s_test, seed))}

    return {
        "use": attempt(lambda: _use(model, Picked.first(test, USED), plan)),
        "prototypes": attempt(lambda: prototype_health(s_train, model.prototypes.vectors.detach(), learned)),
        "latents": attempt(lambda: latent_quality(s_train, learned, train, seed)),
        "reconstruction": reconstruction(shown, drawn.generated, drawn.inverted, plan, networks.lpips),
        "preservation": attempt(lambda: preserved(learned, shown, drawn.generated, train.attribute_names, plan)),
        "distances": distances(reference, drawn, plan, networks),
        "prior": {"absent": NO_PRIOR} if prior is None else of_prior(prior),
    }


def _use(model: PatronusModule, picked: Picked, plan: EvaluationPlan) -> Section:
    """Return how much larger the denoising loss is with the activations of another image."""
    times = [t * model.schedule.timesteps // 1000 for t in TIMES]
    seed, timesteps = plan.sampling.seed, model.schedule.timesteps
    used = use_ratio(model, as_floats(picked.bytes), times, seed, plan.sampling.batch_size)
    return {
        "protocol": {**picked.protocol(), "t": times, "timesteps": timesteps, "seed": seed},
        "loss_own": used.own,
        "loss_other": used.other,
        "ratio": used.ratio,
    }
