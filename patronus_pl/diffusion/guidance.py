"""Guidance: exaggerate the difference that a condition makes."""

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.diffusion.prediction import Denoiser
from patronus_pl.errors import InvalidOptionError

Guidance = float | Float[Tensor, " weights"]
"""A weight for all edits, or one for each prototype."""
LARGEST = 100.0
"""Weight above which guidance is refused: pictures have long left the range of images."""


def guided(without: Denoiser, given: Denoiser, weight: Float[Tensor, " b"]) -> Denoiser:
    """Return the denoiser x̂_0 + w · (x̂_0' - x̂_0), where x̂_0 comes from `without` and x̂_0' from `given`.

    It is ε̂ + w · (ε̂' - ε̂) as well, since ε̂ is linear in x̂_0 at the same x_t. A weight of 0 is `without`, 1 is `given`;
    above 1 the difference is exaggerated (Ho & Salimans 2022, "Classifier-free diffusion guidance"). Each step takes
    two evaluations.

    Args:
        without: D(x_t, t) without what is to be exaggerated.
        given: D(x_t, t) with it.
        weight: w of every row.
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        base = without(x_t, t)
        return torch.lerp(base, given(x_t, t), weight.to(base).reshape(-1, *[1] * (base.ndim - 1)))

    return denoise


def weights_of_rows(
    guidance: Guidance, s: Float[Tensor, "b m"], base: Float[Tensor, "b m"] | None
) -> Float[Tensor, " b"]:
    """Return one guidance weight for each row.

    Args:
        guidance: one weight for all, or one for each prototype. With the latter, a row gets the weight of the prototype
            that differs from `base`; if several differ, their mean, weighted by how much they differ.
        s: (b, m) activations to be painted.
        base: (b, m) activations to compare with; None where the condition as a whole is guided.

    Raises:
        InvalidOptionError: a weight that is no number or beyond ±100, or weights of another number of prototypes, or
            weights for each prototype without a base.
    """
    w = torch.as_tensor(guidance, dtype=s.dtype, device=s.device)
    if not (w.isfinite().all() and w.abs().max() <= LARGEST):
        raise InvalidOptionError(f"guidance is {guidance}; give numbers between -{LARGEST:g} and {LARGEST:g}")
    if w.ndim == 0:
        return w.expand(len(s))
    if base is None or w.shape != s.shape[1:]:
        raise InvalidOptionError(
            f"guidance has shape {tuple(w.shape)} for {s.shape[1]} prototypes; give one number, or with `base` one for "
            "each prototype"
        )
    changed = (s - base).abs()
    total = changed.sum(1)
    return ((changed * w).sum(1) / total.clamp_min(1e-12)).where(total > 0, 1.0)
