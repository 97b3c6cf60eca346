"""Data sets as `ImageDataModule`s. Each is imported when it is first used."""

from importlib import import_module
from typing import Any

_HOME = {
    "Activations": "activations",
    "BiasedSubset": "bias",
    "CIFAR10": "cifar10",
    "CelebA": "celeba",
    "CheXpert": "chexpert",
    "FFHQ": "ffhq",
    "FashionMNIST": "fashion_mnist",
    "ImageDataModule": "base",
    "ImageFolder": "image_folder",
    "ImageTable": "image_table",
    "PlantedFaces": "planted_faces",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a data set when its name is used, so that `import patronus_pl.data` loads neither torch nor lightning."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(_HOME)
