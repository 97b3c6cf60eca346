"""Images from activations and new noise, in batches."""

from collections.abc import Iterator, Sequence

from patronus_pl.analysis.where import as_bytes
from patronus_pl.diffusion import NoiseSource
from patronus_pl.modules import PatronusModule
from patronus_pl.modules.patronus import Sampler
from patronus_pl.types import Activations, ImageBytes


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
