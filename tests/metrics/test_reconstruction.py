import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchvision.models import alexnet

from patronus_pl.errors import CorruptFileError, InvalidOptionError
from patronus_pl.metrics import WeightsNotFoundError, load_lpips, lpips, mean_image_error, mse, psnr, ssim


def images(n=3, channels=3, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=generator) * 2 - 1


def test_mse_and_psnr_of_a_known_error():
    x = torch.zeros(2, 3, 8, 8)
    y = x + torch.tensor([0.2, 2.0]).view(2, 1, 1, 1)
    np.testing.assert_allclose(mse(x, y), [0.04, 4.0], rtol=1e-6)
    np.testing.assert_allclose(psnr(x, y), [20.0, 0.0], atol=1e-5)
    assert torch.isinf(psnr(x, x)).all()


def test_the_error_of_the_mean_image_is_the_variance_over_images():
    x = images(7)
    assert mean_image_error(iter(x.split(3))) == pytest.approx(x.double().numpy().var(0).mean(), rel=1e-12)


def ssim_by_filters(x, y):
    """Wang et al. 2004 on [0, 1] with SciPy's Gaussian of 11 taps, where the window lies inside the image."""
    x, y = (x + 1) / 2, (y + 1) / 2

    def blur(z):
        return gaussian_filter(z, sigma=(0, 1.5, 1.5), truncate=3.5)[:, 5:-5, 5:-5]

    mx, my = blur(x), blur(y)
    vx, vy, cxy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return np.mean((2 * mx * my + c1) * (2 * cxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2)))


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_equals_its_definition(channels):
    x = images(channels=channels)
    y = (0.7 * x + 0.3 * images(channels=channels, seed=1)).clamp(-1, 1)
    expected = [ssim_by_filters(a, b) for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)]
    np.testing.assert_allclose(ssim(x, y), expected, atol=1e-4)
    np.testing.assert_allclose(ssim(x, x), 1, atol=1e-6)
    assert ssim(x[:1], y[:1]).shape == (1,)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """AlexNet with random weights, saved as torchvision's file is."""
    torch.manual_seed(0)
    network = alexnet(weights=None)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(network.state_dict(), path)
    return network.features.eval(), str(path)


@torch.no_grad()
def lpips_by_definition(x, y, features, weightings):
    """Zhang et al. 2018, eq. 1: unit-normalised features after each ReLU, squared difference, weighted, averaged."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((z - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for z in (x, y))
    total, weightings = 0, iter(weightings)
    for layer in features[:12]:
        x, y = layer(x), layer(y)
        if isinstance(layer, torch.nn.ReLU):
            difference = (torch.nn.functional.normalize(x) - torch.nn.functional.normalize(y)) ** 2
            total = total + (difference * next(weightings).view(1, -1, 1, 1)).sum(dim=1).mean(dim=(1, 2))
    return total


def test_lpips_equals_its_definition_on_the_given_backbone(backbone):
    features, path = backbone
    network = load_lpips(path)
    weightings = [layer.model[-1].weight for layer in network.lins]
    x, y = images(size=40), images(size=40, seed=1)
    torch.testing.assert_close(
        lpips(x, y, network), lpips_by_definition(x, y, features, weightings), rtol=1e-3, atol=1e-5
    )
    assert lpips(x, x, network).abs().max() == 0


def test_lpips_takes_grey_images_and_a_single_one(backbone):
    network = load_lpips(backbone[1])
    x, y = images(1, channels=1), images(1, channels=1, seed=1)
    assert lpips(x, y, network).shape == (1,)
    torch.testing.assert_close(lpips(x, y, network), lpips(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1), network))


def test_wrong_input_is_named(tmp_path, backbone):
    with pytest.raises(InvalidOptionError, match=r"SSIM needs images of at least 11×11 pixels, not \(10, 10\)"):
        ssim(images(size=10), images(size=10))
    with pytest.raises(InvalidOptionError, match="LPIPS needs images of at least 31×31 pixels"):
        lpips(images(size=30), images(size=30), load_lpips(backbone[1]))
    with pytest.raises(WeightsNotFoundError, match=r"LPIPS' AlexNet: no file .*absent.pth.*download https"):
        load_lpips(str(tmp_path / "absent.pth"))
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, other)
    with pytest.raises(CorruptFileError, match="does not hold torchvision's AlexNet"):
        load_lpips(str(other))
