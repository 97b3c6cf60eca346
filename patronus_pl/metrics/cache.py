"""A cache on disk of arrays that take long to compute, such as the features of real images."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patronus_pl.errors import OutputError
from patronus_pl.files import replacing


def cached_arrays(
    folder: str | os.PathLike[str], key: Mapping[str, Any], compute: Callable[[], Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Return what `compute` returns; it is called once for each key, and its arrays are kept as one `.npz` file.

    Args:
        folder: where the files lie; made when missing.
        key: everything that decides the result (data, preprocessing, `network_hash`), as JSON values.
        compute: function without arguments; called when no complete file for this key exists.

    Raises:
        OutputError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = cached_arrays(folder, {"data": "faces"}, lambda: {"mean": np.array([1, 2])})
        ...     again = cached_arrays(folder, {"data": "faces"}, lambda: {"mean": np.array([7, 8])})
        >>> again["mean"]
        array([1, 2])
    """
    text = json.dumps(key, sort_keys=True)
    path = Path(folder) / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    # A broken file is computed again: a cache must never stop a run.
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), open(path, "rb") as file:
        stored = np.load(file)
        if str(stored["key"]) == text:
            return {name: stored[name] for name in stored.files if name != "key"}
    arrays = dict(compute())
    remedy = "choose another cache folder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r} ({error.strerror}); {remedy}") from error
    with replacing(path, remedy) as file:
        np.savez(file, key=np.array(text), **arrays)  # type: ignore[arg-type]  # none is named `allow_pickle`
    return arrays
