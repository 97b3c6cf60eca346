"""Edits of many prototypes in many images, cut into batches: the loop that what, faithfulness and when share."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.analysis.editing.inverting import Inverted


class Job(NamedTuple):
    """A batch of k (prototype, image) pairs with v values each: k·v pictures to decode, pair by pair."""

    prototype: Int[Tensor, " k"]
    """Positions in the list of prototypes, not their indices in the model."""
    image: Int[Tensor, " k"]
    """Rows of the inverted images."""
    x_T: Float[Tensor, "kv c h w"]
    s: Float[Tensor, "kv m"]


def jobs(
    inverted: Inverted, prototypes: Sequence[int], values: Float[Tensor, "p v"], batch_size: int, device: torch.device
) -> Iterator[Job]:
    """Yield every prototype set to each of its v values in every image; all other activations stay as they are.

    Args:
        inverted: n images.
        prototypes: p indices.
        values: (p, v) the activations that each prototype is set to.
        batch_size: pictures of a job; a job holds at least one pair with all its values.
        device: where `x_T` and `s` are wanted.
    """
    p, v = values.shape
    index = torch.tensor(prototypes)
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(len(inverted.s)))
    for which, image in (chunk.unbind(1) for chunk in torch.split(pairs, max(1, batch_size // v))):
        s = inverted.s[image].repeat_interleave(v, 0)
        s[torch.arange(len(s)), index[which].repeat_interleave(v)] = values[which].flatten()
        yield Job(which, image, inverted.x_T[image].repeat_interleave(v, 0).to(device), s.to(device))
