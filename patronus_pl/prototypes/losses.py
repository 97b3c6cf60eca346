"""Penalties that keep prototypes from saying the same thing."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from patronus_pl.types import Activations


def correlation(activations: Activations, weights: Float[Tensor, " b"] | None = None) -> Float[Tensor, "m m"]:
    """Pearson correlation between prototypes over the batch; 0 where a prototype is constant.

    With weights w_i ≥ 0, means are Σ_i w_i x_i / Σ_i w_i; 0 throughout if all weights are 0.
    """
    if weights is None:
        centred, size = activations - activations.mean(0), activations.detach()
    else:
        w = (weights / weights.sum().clamp_min(1e-12))[:, None]
        centred, size = w.sqrt() * (activations - (w * activations).sum(0)), w.sqrt() * activations.detach()
    # Rounding leaves a constant column not quite constant: it must not be blown up to norm 1, nor 0 divided by 0.
    floor = 1e-5 * size.norm(dim=0) + 1e-12
    unit = centred / torch.maximum(centred.norm(dim=0), floor)
    products: Tensor = unit.T @ unit
    return products


def decorrelation_loss(
    activations: Activations, weights: Float[Tensor, " b"] | None = None, floor: float = 0.0
) -> Float[Tensor, ""]:
    """mean_j Σ_{k≠j} c_jk², where c_jk is by how much corr(s_j, s_k) over the batch lies outside [floor, 0].

    Redundant prototypes cannot be moved one at a time: the others still say what was there. Prototypes that exclude
    each other are another matter: of three hair colours one is there, so that a prototype for each makes pairs of
    correlation -½, and to forbid that is to ask for mixtures of colour and of whatever else is uncorrelated. 0 for a
    single prototype.

    Where the data tie two concepts together, prototypes of one concept each are correlated as well. `balancing_weights`
    take the tie out of the correlation, so that pure ones cost nothing.

    Args:
        activations: s, of at least two images.
        weights: of the images, ≥ 0; None weighs them equally.
        floor: in [-1, 0], the least correlation that costs nothing.
    """
    found = correlation(activations, weights)
    squared = (found - found.clamp(floor, 0.0)).square()
    return (squared.sum() - squared.diagonal().sum()) / activations.shape[1]


def kurtosis_loss(activations: Activations) -> Float[Tensor, ""]:
    """mean_j E[z_j⁴] - 1 over the batch, z the standardised activations: 0 if each takes two values equally often.

    Any rotation of uncorrelated activations is uncorrelated, so each prototype may hold a bit of several concepts. A
    sum of independent concepts has a larger kurtosis than the concepts themselves, when these are there or not: of all
    rotations the one of least kurtosis gives each prototype a concept of its own (independent component analysis of
    sub-Gaussian sources; Comon 1994, Hyvärinen & Oja 2000). E[z⁴] is 1 for a fair coin, 1.8 uniform, 3 Gaussian.
    """
    z = activations - activations.mean(0)
    z = z / z.std(0, correction=0).clamp_min(1e-4)  # a constant prototype stays at 0
    return z.pow(4).mean() - 1


def sparsity_loss(change: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """mean_p √(Σ_c change_c(p)² + δ²): over how much of the picture one prototype has its effect.

    A sum of magnitudes over places, not of squares, so that it is least if each prototype moves one thing: of two that
    share two things between them, either changes both places, by 1/√2 each; together they pay √2 times as much. An L1
    norm prefers sparse vectors to their rotations, from the first degree on, where the kurtosis only begins to notice.

    Args:
        change: of the predicted image, as one prototype is taken back.
    """
    return (change.square().sum(1) + 1e-4).sqrt().mean((-2, -1))  # δ = 0.01, about a step of a byte in each channel


def faithfulness_loss(requested: Float[Tensor, "b m"], realised: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
    """Σ_j (Δŝ_j - Δs_j)²: how far what a changed picture says is from what it was asked to say.

    A prototype that the painter follows halfway pays for the other half; one that drags others along pays for those:
    the slope and the leakage of the faithfulness card, as a loss. Codes that need several prototypes to move together
    cannot be followed one at a time, so it also takes concepts apart. Changes are compared rather than states: what
    blurs all pictures of a noise level alike costs nothing.

    Args:
        requested: Δs, change of the standardised activations that the picture is painted under.
        realised: Δŝ, change of those that the encoder reads in the picture.
    """
    return (realised - requested).square().sum(1)


def looking_loss(
    similarity: Float[Tensor, "b rows cols"], effect: Float[Tensor, "b rows cols"], temperature: float
) -> Float[Tensor, " b"]:
    """softmax_u sim(u) - softmax_u [sim(u) + log e(u) / max e], where softmax_u f = log Σ_u exp(τ f(u)) / τ ≥ max_u f.

    max e is at least 0.01, about a step of a byte: of effects that are not there yet none is the largest.

    By how much similarity the best patch beats the best one in whose middle something moves: how far a prototype looks
    past what it moves. A pattern at the edge of a patch tells as much as one in its middle, and it is left to chance
    which of the patches that see a mouth a prototype learns; this prefers the one with the mouth in its middle, and
    pulls at it however far it is from being the best.

    Args:
        similarity: of every patch to the prototype.
        effect: e ≥ 0 of the prototype on the middle of every patch, in units of x_0 ∈ [-1, 1].
        temperature: τ of the softmax, that of the pooling.
    """
    share = effect / effect.amax((1, 2), keepdim=True).clamp_min(1e-2)
    moving = similarity + share.clamp_min(1e-3).log()  # a patch that moves nothing is to lose, not to be -inf
    best, best_moving = ((temperature * f.flatten(1)).logsumexp(1) for f in (similarity, moving))
    return (best - best_moving) / temperature


def distinctness_loss(prototypes: Float[Tensor, "m d"], margin: float) -> Float[Tensor, ""]:
    """mean_i max(0, δ - min_{j≠i}(1 - |cos(p_i, p_j)|)), the paper's optional penalty on near-duplicates.

    Args:
        prototypes: the m vectors p_j.
        margin: δ in (0, 1]; the paper tries 0.2, 0.5 and 1.
    """
    if len(prototypes) < 2:
        return prototypes.sum() * 0.0
    unit = F.normalize(prototypes, dim=1)
    similarity = (unit @ unit.T).abs()
    # A prototype is never its own neighbour.
    nearest = similarity.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), 0.0).amax(1)
    return (margin - (1 - nearest)).clamp_min(0).mean()
