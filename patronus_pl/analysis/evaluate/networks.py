"""The networks that look at images in an evaluation, and why one is missing where it is."""

import warnings
from dataclasses import dataclass

from torch import nn

from patronus_pl.metrics import InceptionFeatures, RandomFeatures, WeightsNotFoundError, load_lpips

QUICK_FID = "the quick preset loads no Inception; add --evaluation.features patronus_pl.metrics.InceptionFeatures"
QUICK_LPIPS = "the quick preset loads no LPIPS; add --evaluation.lpips FILE (AlexNet's), or --evaluation.preset paper"


@dataclass(frozen=True)
class Networks:
    """The networks that look at images.

    Attributes:
        features: the feature network of the distances, see `patronus_pl.metrics.features`.
        no_fid: why `features` is not Inception; empty if it is.
        lpips: the network of LPIPS, or why there is none.
        cache: folder for the features of real images; None computes them each time.
    """

    features: nn.Module
    no_fid: str = ""
    lpips: nn.Module | str = "not asked for"
    cache: str | None = None


def choose_features(wanted: nn.Module | None, paper: bool, channels: int) -> tuple[nn.Module, str]:
    """Return the feature network of the distances, and why it is not Inception (empty if it is).

    Args:
        wanted: the network that the user named; None for none.
        paper: whether Inception is tried where none is named. If its weights cannot be had, a warning says so, and
            random features take its place.
        channels: number of channels of the images.
    """
    if wanted is not None:
        return wanted, "" if isinstance(
            wanted, InceptionFeatures
        ) else f"--evaluation.features is {type(wanted).__name__}"
    if not paper:
        return RandomFeatures(channels), QUICK_FID
    try:
        return InceptionFeatures(), ""
    except WeightsNotFoundError as error:
        warnings.warn(f"no FID, distances of random features instead: {error}", stacklevel=2)
        return RandomFeatures(channels), _without_weights("features.init_args.feature_extractor_weights_path")


def choose_lpips(file: str | None, paper: bool) -> nn.Module | str:
    """Return the network of LPIPS, or why there is none.

    Args:
        file: AlexNet's weights; None downloads them for the paper's preset, and takes no network for any other.
        paper: whether the preset is the paper's.

    Raises:
        WeightsNotFoundError: there is no such file.
    """
    if file is None and not paper:
        return QUICK_LPIPS
    try:
        return load_lpips(file)
    except WeightsNotFoundError as error:
        if file is not None:
            raise
        warnings.warn(f"no LPIPS: {error}", stacklevel=2)
        return _without_weights("lpips")


def _without_weights(option: str) -> str:
    """Return a reason that is the same each time, unlike the error of a download."""
    return f"its weights could not be downloaded; fetch the file that the warning names, and add --evaluation.{option}"
