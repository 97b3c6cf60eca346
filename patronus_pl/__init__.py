"""Prototypes that condition, explain and steer an image diffusion model.

>>> from patronus_pl import PatronusModule
>>> model = PatronusModule.load_from_checkpoint("last.ckpt")  # doctest: +SKIP
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOME = {
    "LatentPrior": "modules.latent_prior",
    "PatronusModule": "modules.patronus",
    "load_reference": "modules.reference",
}
__all__ = ["LatentPrior", "PatronusModule", "__version__", "load_reference"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: `import patronus_pl` loads neither torch nor lightning."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
