"""How close a reconstruction is to its original: MSE, PSNR, SSIM, LPIPS, one number an image.

Images are in [-1, 1]. One number an image: the caller averages exactly over uneven batches and can show the worst.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from patronus_pl.errors import CorruptFileError, InvalidOptionError
from patronus_pl.metrics.features import load_weights, weights_file
from patronus_pl.types import Image

PerImage = Float[Tensor, " b"]


def mse(images: Image, targets: Image) -> PerImage:
    """Mean squared error over the pixels and channels of each image, in units of [-1, 1] (0 to 4)."""
    return (images - targets).square().mean(dim=(1, 2, 3))


def psnr(images: Image, targets: Image) -> PerImage:
    """Peak signal-to-noise ratio of each image in dB: 10 log₁₀(2² / MSE); infinite for equal images."""
    return peak_signal_noise_ratio(images, targets, data_range=2.0, reduction="none", dim=(1, 2, 3))


def ssim(images: Image, targets: Image) -> PerImage:
    """Structural similarity of each image (Wang et al. 2004) in [-1, 1], 1 for equal; 11×11 Gaussian window, σ = 1.5.

    Computed on [0, 1], since its luminance term compares means; averaged where the window lies inside the image.

    Raises:
        InvalidOptionError: images smaller than the window.
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
    """LPIPS' network: torchvision's AlexNet and the five learned weightings that torchmetrics carries.

    Args:
        backbone_path: file `alexnet-owt-7be5be79.pth`; None downloads it once into PyTorch's hub folder.

    Raises:
        WeightsNotFoundError: no such file, or no network: the caller leaves LPIPS out and says so.
        CorruptFileError: the file holds no AlexNet.
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
    """E x² - (E x)², mean over pixels: what always drawing the mean image would cost, in the units of `mse`.

    Args:
        batches: all images, some at a time.
    """
    count, first, second = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for x in batches:
        count, first, second = count + len(x), first + x.double().sum(0), second + x.double().square().sum(0)
    return float((second / count - (first / count).square()).mean())


@torch.no_grad()
def lpips(images: Image, targets: Image, network: nn.Module) -> PerImage:
    """Learned perceptual distance of each image (Zhang et al. 2018), 0 for equal; `network` from `load_lpips`.

    One channel is repeated to three.

    Raises:
        InvalidOptionError: images below 31×31 pixels, which AlexNet's pooling would shrink to nothing.
    """
    if min(images.shape[-2:]) < 31:
        raise InvalidOptionError(
            f"LPIPS needs images of at least 31×31 pixels, not {tuple(images.shape[-2:])}; leave it out"
        )
    distance: Tensor = network(images.expand(-1, 3, -1, -1), targets.expand(-1, 3, -1, -1))
    return distance.flatten()
