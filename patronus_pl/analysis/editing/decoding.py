"""Images from activations and new noise, in batches."""

from collections.abc import Iterator, Sequence

import torch

from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion import NoiseSource
from patronus_pl.diffusion.sampling import Sampler
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_bytes, as_floats
from patronus_pl.types import Activations, Image, ImageBytes


def draw(
    model: PatronusModule,
    s: Activations,
    rows: Sequence[int],
    steps: int,
    sampler: Sampler,
    seed: int,
    batch_size: int = 64,
) -> Iterator[ImageBytes]:
    """Batches of images as bytes, decoded from s and from new noise, which depends on (seed, row) alone.

    Args:
        model: the model.
        s: (n, m).
        rows: which image each of the n is.
        steps: of the sampler.
        sampler: which.
        seed: of the noise.
        batch_size: images at a time.
    """
    for start in range(0, len(s), batch_size):
        chunk = s[start : start + batch_size].to(model.device)
        noise = NoiseSource(seed, rows[start : start + batch_size], model.device)
        x_T = noise((len(chunk), *model.image_shape))
        yield as_bytes(model.decode(x_T, chunk, steps, sampler, noise=noise).cpu())


@evaluating
def put_together(
    model: PatronusModule,
    x_T: Image,
    s: Activations,
    steps: int = 20,
    sampler: Sampler = "dpm++",
    batch_size: int = 64,
) -> Image:
    """`model.decode`, some images at a time."""
    pairs = zip(torch.split(x_T, batch_size), torch.split(s, batch_size), strict=True)
    device = model.device
    return torch.cat([model.decode(x.to(device), c.to(device), steps, sampler).cpu() for x, c in pairs])


@evaluating
def encode(model: PatronusModule, images: Image | ImageBytes, batch_size: int = 64) -> Activations:
    """`model.encode`, some images at a time; (n, c, h, w) in [-1, 1] or as bytes."""
    return torch.cat([model.encode(as_floats(x.to(model.device))).cpu() for x in torch.split(images, batch_size)])
