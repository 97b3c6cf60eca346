"""How close a reconstruction is to its original: MSE, PSNR, SSIM and LPIPS.

Images are (b, c, h, w) in [-1, 1]. Each function returns one number an image, so that the caller can average exactly
over batches of different sizes, and can show the worst image.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from patronus_pl.errors import CorruptFileError, InvalidOptionError
from patronus_pl.metrics.weights import load_weights, weights_file
from patronus_pl.types import Image

PerImage = Float[Tensor, " b"]


def mse(images: Image, targets: Image) -> PerImage:
    """Return the mean squared error over the pixels and channels of each image, shape (b,), between 0 and 4.

    Example:
        >>> import torch
        >>> mse(torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5))
        tensor([0.2500, 0.2500])
    """
    return (images - targets).square().mean(dim=(1, 2, 3))


def psnr(images: Image, targets: Image) -> PerImage:
    """Return the peak signal-to-noise ratio of each image, shape (b,), in dB; infinite for equal images.

    PSNR = 10 log₁₀(2² / MSE)

    Example:
        >>> import torch
        >>> psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.2))
        tensor([20.])
    """
    return peak_signal_noise_ratio(images, targets, data_range=2.0, reduction="none", dim=(1, 2, 3))


def ssim(images: Image, targets: Image) -> PerImage:
    """Return the structural similarity of each image (Wang et al. 2004), shape (b,), in [-1, 1]; 1 for equal images.

    The window is a Gaussian of 11×11 pixels, σ = 1.5. Images are moved to [0, 1], since the luminance term compares
    means; the average is taken where the window lies inside the image.

    Raises:
        InvalidOptionError: images are smaller than the window.

    Example:
        >>> import torch
        >>> images = torch.rand(2, 3, 16, 16) * 2 - 1
        >>> ssim(images, images).round(decimals=4)
        tensor([1., 1.])
    """
    if min(images.shape[-2:]) < 11:
        raise InvalidOptionError(
            f"SSIM needs images of at least 11×11 pixels, not {tuple(images.shape[-2:])}; leave it out"
        )
    x, y = (images + 1) / 2, (targets + 1) / 2
    _, full = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none", return_full_image=True)
    # torchmetrics' releases differ in whether they count the border, where the window sees reflected pixels.
    return full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))


def load_lpips(backbone_path: str | None = None) -> nn.Module:
    """Build LPIPS' network: torchvision's AlexNet and the five learned weightings that torchmetrics carries.

    Args:
        backbone_path: file `alexnet-owt-7be5be79.pth`; None downloads it once into PyTorch's hub folder.

    Raises:
        WeightsNotFoundError: there is no such file, and it cannot be downloaded.
        CorruptFileError: the file holds no AlexNet.

    Example:
        >>> load_lpips("no/such/file.pth")
        Traceback (most recent call last):
            ...
        patronus_pl.metrics.weights.WeightsNotFoundError: LPIPS' AlexNet: no file 'no/such/file.pth'; download ...
    """
    from torchmetrics.functional.image.lpips import _NoTrainLpips
    from torchvision.models import AlexNet_Weights

    path = weights_file("LPIPS' AlexNet", AlexNet_Weights.IMAGENET1K_V1.url, backbone_path)
    state = {name.removeprefix("features."): value for name, value in load_weights(path).items()}
    network = _NoTrainLpips(net="alex", pnet_rand=True)
    try:
        # torchmetrics cuts AlexNet's `features` into slices that keep the layers' own numbers.
        for part in (getattr(network.net, f"slice{i}") for i in range(1, 6)):
            part.load_state_dict({name: state[name] for name in part.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise CorruptFileError(f"{path} does not hold torchvision's AlexNet; download it again") from error
    return network


def mean_image_error(batches: Iterable[Image]) -> float:
    """Return the mean squared error that the mean image of all images has, in the units of `mse`.

    E x² − (E x)² over images, averaged over pixels: a reconstruction with a larger error knows nothing of its image.

    Args:
        batches: all images, in batches (b, c, h, w).

    Example:
        >>> import torch
        >>> black_and_white = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
        >>> mean_image_error([black_and_white])
        1.0
    """
    count, first, second = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for x in batches:
        count, first, second = count + len(x), first + x.double().sum(0), second + x.double().square().sum(0)
    return float((second / count - (first / count).square()).mean())


@torch.no_grad()
def lpips(images: Image, targets: Image, network: nn.Module) -> PerImage:
    """Return the learned perceptual distance of each image (Zhang et al. 2018), shape (b,); 0 for equal images.

    One channel is repeated to three.

    Args:
        images: shape (b, 1 or 3, h, w).
        targets: the same shape.
        network: the network of `load_lpips`.

    Raises:
        InvalidOptionError: images below 31×31 pixels, which AlexNet's pooling would shrink to nothing.

    Example:
        >>> import tempfile
        >>> import torch, torchvision
        >>> with tempfile.NamedTemporaryFile() as file:  # in earnest, leave the path out: the weights are downloaded
        ...     torch.save(torchvision.models.alexnet().features.state_dict(), file.name)
        ...     network = load_lpips(file.name)
        >>> images = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> lpips(images, images, network)
        tensor([0., 0.])
    """
    if min(images.shape[-2:]) < 31:
        raise InvalidOptionError(
            f"LPIPS needs images of at least 31×31 pixels, not {tuple(images.shape[-2:])}; leave it out"
        )
    distance: Tensor = network(images.expand(-1, 3, -1, -1), targets.expand(-1, 3, -1, -1))
    return distance.flatten()
