"""Files of pretrained weights: found or downloaded, and read without unpickling code."""

import pickle
import re
import socket
import warnings
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from patronus_pl.errors import CorruptFileError, PatronusError


class WeightsNotFoundError(PatronusError):
    """Pretrained weights are not at the given path, and cannot be downloaded."""


def weights_file(what: str, url: str, path: str | None = None, timeout: float = 10.0) -> Path:
    """Return the file of pretrained weights: the given one, the one in PyTorch's hub folder, or a fresh download.

    Args:
        what: name of the weights, for the error message.
        url: where they can be downloaded; its file name carries the start of the file's SHA-256, as PyTorch's do.
        path: a file that exists; None looks in the hub folder and downloads to there what is missing.
        timeout: seconds without an answer after which the download is given up.

    Raises:
        WeightsNotFoundError: there is no such file, or the download failed.
    """
    if path is not None:
        if not Path(path).expanduser().is_file():
            raise WeightsNotFoundError(f"{what}: no file {path!r}; download {url} and give its path")
        return Path(path).expanduser()
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not target.is_file():
        _download(what, url, target, timeout)
    return target


def _download(what: str, url: str, target: Path, timeout: float) -> None:
    prefix = re.search(r"-([0-9a-f]{8,})\.", target.name)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)  # torch.hub sets none, and a silent network would hang the run
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), prefix.group(1) if prefix else None)
    except (OSError, RuntimeError) as error:
        raise WeightsNotFoundError(
            f"{what}: cannot download {url} ({error}); copy the file to {target} or give its path"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def load_weights(path: Path) -> dict[str, Shaped[Tensor, "..."]]:
    """Read a state dict from a file that may hold tensors only, never code.

    Raises:
        CorruptFileError: the file is truncated, is no state dict, or holds more than tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about unusual pickle protocols before it raises
            state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise CorruptFileError(
            f"{path} holds no plain weights ({str(error).splitlines()[0]}); download it again"
        ) from error
    if not isinstance(state, dict):
        raise CorruptFileError(f"{path} holds a {type(state).__name__}, not a state dict; download it again")
    return state
