"""The model's `encode` and `decode`, a batch at a time, for more images than the denoiser can take at once."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.editing.inverting import Inverted
from patronus_pl.analysis.evaluating import evaluating
from patronus_pl.diffusion import Guidance, NoiseSource
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_bytes, as_floats
from patronus_pl.types import Activations, Image, ImageBytes


@evaluating
def encode(model: PatronusModule, images: Image | ImageBytes, batch_size: int = 64) -> Activations:
    """Return the prototype activations `s` of the images, shape (n, m), on the CPU.

    Args:
        model: the model.
        images: (n, c, h, w), floats in [-1, 1] or bytes.
        batch_size: images at a time; it changes memory and speed, not results.
    """
    return torch.cat([model.encode(as_floats(x.to(model.device))).cpu() for x in torch.split(images, batch_size)])


@evaluating
def decode(
    model: PatronusModule,
    x_T: Image,
    s: Activations,
    sampling: Sampling,
    guidance: Guidance | None = None,
    base: Activations | None = None,
) -> Image:
    """Return the images that the sampler makes of noise and activations, shape (n, c, h, w) in [-1, 1], on the CPU.

    Args:
        model: the model.
        x_T: (n, c, h, w) noise: `Inverted.x_T`, or random.
        s: (n, m) activations.
        sampling: steps, sampler and batch size.
        guidance: weight w by which the difference between `s` and `base` is exaggerated, one number or one for each
            prototype; None decodes without guidance, in half the time.
        base: (n, m) activations that guidance starts from, for edits `Inverted.s`; None: those of no image, which takes
            a model that was trained with masks.
    """
    drawn = []
    for rows in torch.split(torch.arange(len(s)), sampling.batch_size):
        x, told = x_T[rows].to(model.device), s[rows].to(model.device)
        own = None if base is None else base[rows].to(model.device)
        x = model.decode(x, told, sampling.steps, sampling.sampler, base=own, guidance=guidance)
        drawn.append(x.cpu())
    return torch.cat(drawn)


def decode_from_noise(
    model: PatronusModule,
    s: Activations | None,
    rows: Sequence[int],
    sampling: Sampling,
    guidance: float | None = None,
) -> Iterator[ImageBytes]:
    """Yield batches of images as bytes, decoded from activations and random noise.

    Image k starts from noise that depends on `sampling.seed` and `rows[k]` alone: it is the same whichever other images
    are drawn beside it, and on whichever process.

    Args:
        model: the model.
        s: (n, m) activations; None: the denoiser is told nothing, which takes a model that was trained with masks.
        rows: n numbers, one an image, that choose its noise.
        sampling: steps, sampler, seed and batch size.
        guidance: weight w by which the difference between the denoiser that is told `s` and the one that is told
            nothing is exaggerated (classifier-free guidance); None for no guidance, which takes half as long.
    """
    size, m = sampling.batch_size, model.prototypes.count
    for start in range(0, len(rows), size):
        noise = NoiseSource(sampling.seed, rows[start : start + size], model.device)
        x_T = noise((len(rows[start : start + size]), *model.image_shape))
        told = x_T.new_zeros(len(x_T), m) if s is None else s[start : start + size].to(model.device)
        keep = torch.zeros_like(told, dtype=torch.bool) if s is None else None
        x = model.decode(x_T, told, sampling.steps, sampling.sampler, noise=noise, keep=keep, guidance=guidance)
        yield as_bytes(x.cpu())


@evaluating
def interpolate(
    model: PatronusModule, a: Inverted, b: Inverted, n: int, sampling: Sampling
) -> Float[Tensor, "n b c h w"]:
    """Decode n pictures on the way from each image of `a` to the same one of `b`, both ends included.

    At the share λ of the way, s is interpolated linearly and x_T along the great circle (Song et al. 2021, eq. 67):
    x_T(λ) = (sin((1-λ)θ) x_T^a + sin(λθ) x_T^b) / sin θ, θ the angle between the two.

    Args:
        model: the model.
        a: where the ways start, b images.
        b: where they end, as many.
        n: pictures of a way.
        sampling: steps, sampler and batch size.
    """
    weights = torch.linspace(0, 1, n)
    s = torch.stack([torch.lerp(a.s, b.s, w) for w in weights])
    x_T = torch.stack([slerp(a.x_T, b.x_T, float(w)) for w in weights])
    return decode(model, x_T.flatten(0, 1), s.flatten(0, 1), sampling).reshape(n, *a.images.shape)


def slerp(a: Float[Tensor, "b *shape"], b: Float[Tensor, "b *shape"], weight: float) -> Float[Tensor, "b *shape"]:
    """Interpolate each row along the great circle; where the two are parallel, along the line.

    >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    tensor([[0.7071, 0.7071]])
    """
    u, v = a.flatten(1), b.flatten(1)
    angle = torch.acos(torch.cosine_similarity(u, v, dim=1).clamp(-1, 1))[:, None]
    left, right = torch.sin((1 - weight) * angle), torch.sin(weight * angle)
    straight = torch.sin(angle) < 1e-6
    mixed = torch.where(straight, torch.lerp(u, v, weight), (left * u + right * v) / torch.sin(angle))
    return mixed.reshape(a.shape)
