"""Decode images once: a split becomes one memory-mapped file that all ranks, workers and later runs share.

A cache is `<name>-<key>.npy`, uint8 (n, c, h, w), and a `.json` that describes it. The key is a hash of the
preprocessing and of the name, size and time of change of every file. Both files are written under another name and then
renamed, the description last, so that a cache is whole however the run that made it ended. The folder can be deleted at
any time.
"""

import hashlib
import json
import os
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from patronus_pl.data.decode import Preprocessing, decode, large_images, why
from patronus_pl.errors import CorruptFileError, DatasetNotFoundError, OutputError

FORMAT = 1  # raise it when `decode` gives other pixels
BESIDE = ".patronus_cache"  # the folder of caches in a data set
BLOCK = 64  # images per task: enough to hide the pool's overhead
SAMPLE = 1024  # images that the checksum reads, in milliseconds; the whole file would take minutes


class Decoded(NamedTuple):
    """The contents of a cache."""

    images: NDArray[np.uint8]
    """(n, c, h, w), one per file; zeros where a file could not be read."""
    unreadable: dict[int, str]
    """Row of each file that could not be read → its name and the reason."""


def cache_folder(root: Path, cache_dir: str | None) -> Path:
    """Return where a cache is written: `cache_dir`, else `.patronus_cache` in the data set, else the user's cache.

    The user's cache serves data sets in which he may not write. Caches are read from either place.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    shared = root / BESIDE
    if os.access(shared if shared.exists() else root, os.W_OK):
        return shared
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "patronus_pl"


def decode_all(
    files: Sequence[Path],
    root: Path,
    how: Preprocessing,
    folder: Path,
    name: str,
    max_unreadable: float = 0.001,
    in_memory_mb: int = 1024,
) -> Decoded:
    """Return all images of a split from their cache, which is built first if no whole one is found.

    Caches are looked for in the data set, where another user may have left one, and in `folder`.

    Args:
        files: n image files.
        root: folder that they are named from, so that a data set that moves keeps its cache.
        how: how each file becomes pixels.
        folder: where a new cache is written.
        name: name of the split. The names of its files begin with it, and the progress bar shows it.
        max_unreadable: share of the files that may be unreadable.
        in_memory_mb: caches up to this size in MB are read into memory, larger ones are memory-mapped.

    Raises:
        DatasetNotFoundError: files are missing.
        CorruptFileError: too many files cannot be decoded.
        OutputError: the cache cannot be written.
    """
    shape = (len(files), how.channels, how.image_size, how.image_size)
    if not files:
        return Decoded(np.empty(shape, np.uint8), {})
    key = _key(files, root, how, name)
    file = f"{name}-{key[:16]}.npy"
    places = [root / BESIDE / file, folder / file]
    path = next((place for place in places if _open(place, key, shape, mapped=True) is not None), None)
    if path is None:
        path = folder / file
        with _lock(folder):
            if _open(path, key, shape, mapped=True) is None:  # another process may have built it meanwhile
                _build(path, key, files, how, name)
    decoded = _open(path, key, shape, mapped=int(np.prod(shape)) > in_memory_mb * 2**20)
    if decoded is None:
        raise CorruptFileError(f"{path} does not read back as it was written; check the disk, delete {folder}")
    _check_share(decoded.unreadable, len(files), name, max_unreadable)
    return decoded


def _key(files: Sequence[Path], root: Path, how: Preprocessing, name: str) -> str:
    said = {option: value for option, value in asdict(how).items() if value is not None}
    digest = hashlib.sha256(json.dumps([FORMAT, said]).encode())
    missing = []
    for file in files:
        try:
            status = file.stat()
        except FileNotFoundError:
            missing.append(file)
            continue
        digest.update(os.fsencode(str(file).removeprefix(str(root))))
        digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    if missing:
        raise DatasetNotFoundError(
            f"{name}: {len(missing)} of {len(files)} images are missing, first {missing[0]}; unpack the data set again"
        )
    return digest.hexdigest()


def _open(path: Path, key: str, shape: tuple[int, ...], mapped: bool) -> Decoded | None:
    """Return the cache at `path` if it is whole and has this key, else None."""
    try:
        description = json.loads(path.with_suffix(".json").read_text())
        images = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if description["key"] == key and images.shape == shape and description["checksum"] == _checksum(images):
            return Decoded(images, {int(row): reason for row, reason in description["unreadable"].items()})
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent, truncated or half written by something else: rebuilt
    return None


def _checksum(images: NDArray[np.uint8]) -> int:
    """Return the CRC-32 of a sample of evenly spaced images, the last one included."""
    rows = np.linspace(0, len(images) - 1, min(len(images), SAMPLE)).round().astype(int)
    return zlib.crc32(np.ascontiguousarray(images[rows]).data)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process build in a folder while others wait. Without flock they build side by side, each file whole."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise OutputError(
            f"cannot cache images in {folder} ({error}); set data.cache_dir to a writable folder"
        ) from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            for stale in folder.glob("*.partial"):  # a killed run left it: nobody else holds the lock
                stale.unlink(missing_ok=True)
        except (ImportError, OSError):  # Windows; some network file systems
            pass
        yield


def _build(path: Path, key: str, files: Sequence[Path], how: Preprocessing, name: str) -> None:
    partial = path.with_suffix(f".{uuid4().hex}.partial")  # two machines may have processes of one number
    try:
        with large_images(), partial.open("w+b") as file:
            unreadable = _write(file, files, how, name)
        checksum = _checksum(np.load(partial, mmap_mode="r"))
        os.replace(partial, path)
        partial.write_text(json.dumps({"key": key, "checksum": checksum, "unreadable": unreadable, **asdict(how)}))
        os.replace(partial, path.with_suffix(".json"))
    except OSError as error:
        raise OutputError(
            f"cannot write the cache {path} ({error}); it needs {_megabytes(files, how)} MB: make room or set "
            "data.cache_dir to another disk"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _megabytes(files: Sequence[Path], how: Preprocessing) -> int:
    return 1 + len(files) * how.channels * how.image_size**2 // 2**20


def _write(file: BinaryIO, files: Sequence[Path], how: Preprocessing, name: str) -> dict[int, str]:
    """Decode in threads, write in order, and return what was unreadable.

    Pillow releases the interpreter while it works. The file is written, not mapped: a full disk is then an error, where
    a mapping would end the process.
    """
    shape = (len(files), how.channels, how.image_size, how.image_size)
    header: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    unreadable: dict[int, str] = {}
    with tqdm(total=len(files), desc=f"caching {name}", unit="img") as bar, closing(_blocks(files, how)) as blocks:
        for number, (images, failures) in enumerate(blocks):
            unreadable |= {number * BLOCK + row: reason for row, reason in failures.items()}
            file.write(images.data)
            bar.update(len(images))
    file.flush()
    os.fsync(file.fileno())
    return unreadable


def _blocks(files: Sequence[Path], how: Preprocessing) -> Generator[tuple[NDArray[np.uint8], dict[int, str]]]:
    """Yield decoded blocks in order, with at most two per thread waiting to be written."""
    threads = os.cpu_count() or 1
    waiting: deque[Future[tuple[NDArray[np.uint8], dict[int, str]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(files), BLOCK):
                waiting.append(pool.submit(_decode_block, files[start : start + BLOCK], how))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C and a full disk need not wait for the rest


def _decode_block(files: Sequence[Path], how: Preprocessing) -> tuple[NDArray[np.uint8], dict[int, str]]:
    images = np.zeros((len(files), how.channels, how.image_size, how.image_size), np.uint8)
    failures = {}
    for row, file in enumerate(files):
        try:
            images[row] = decode(file, how)
        except Exception as error:  # a damaged file can make a decoder raise anything
            failures[row] = f"{file}: {why(error)}"
    return images, failures


def _check_share(unreadable: dict[int, str], count: int, name: str, max_unreadable: float) -> None:
    if len(unreadable) > max_unreadable * count:
        first = "; ".join(list(unreadable.values())[:3])
        raise CorruptFileError(
            f"{name}: {len(unreadable)} of {count} images are unreadable, more than data.max_unreadable = "
            f"{max_unreadable:g} allows ({first}); replace them or raise data.max_unreadable"
        )
