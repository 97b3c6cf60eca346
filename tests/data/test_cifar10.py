import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from patronus_pl.data import CIFAR10
from patronus_pl.errors import CorruptFileError, DatasetNotFoundError

from .trees import make_cifar10


@pytest.mark.parametrize("layout", ["bin", "py"])
@pytest.mark.parametrize("inside", [False, True])
def test_both_layouts(tmp_path: Path, layout: str, inside: bool) -> None:
    written = make_cifar10(tmp_path, layout)
    data = CIFAR10(str(tmp_path / f"cifar-10-batches-{layout}" if inside else tmp_path))
    data.setup()
    assert data.image_shape == (3, 32, 32)
    labels, pixels = written["test_batch"]
    assert np.array_equal(data.table("test").images, pixels.reshape(-1, 3, 32, 32))
    assert np.array_equal(data.table("test").attributes, labels[:, None] == np.arange(10))
    labels = np.concatenate([written[f"data_batch_{i}"][0] for i in range(1, 6)])
    assert np.array_equal(data.table("train").attributes.argmax(1), labels[:20])
    assert np.array_equal(data.table("val").attributes.argmax(1), labels[20:])


def test_resized(tmp_path: Path) -> None:
    make_cifar10(tmp_path)
    assert CIFAR10(str(tmp_path), image_size=16).table("test").images.shape == (8, 3, 16, 16)


class Planted:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.victim}",)


def test_a_planted_command_does_not_run(tmp_path: Path) -> None:
    make_cifar10(tmp_path, "py")
    victim = tmp_path / "victim"
    batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(pickle.dumps(Planted(victim)))
    with pytest.raises(CorruptFileError, match=r"test_batch is no batch of CIFAR-10 \(it asks for .*system\)"):
        CIFAR10(str(tmp_path)).setup("test")
    assert not victim.exists()
    pickle.loads(batch.read_bytes())
    assert victim.exists()  # the plant was live


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"CIFAR10 needs data.root; .*binary version.*download"):
        CIFAR10().setup()
    with pytest.raises(DatasetNotFoundError, match=r"no folder '.*nowhere'"):
        CIFAR10(str(tmp_path / "nowhere")).setup()
    with pytest.raises(DatasetNotFoundError, match=r"no batches in .* \(it holds nothing\)"):
        CIFAR10(str(tmp_path)).setup()
    make_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"no file data_batch_3.bin \(.*holds data_batch_1.bin"):
        CIFAR10(str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    ("layout", "damage", "message"),
    [
        ("bin", lambda data: data[:5000], r"test_batch.bin is truncated: 5000 bytes are no multiple of 3073"),
        ("bin", lambda data: b"", r"test_batch.bin is truncated: 0 bytes"),
        ("bin", lambda data: b"\x0b" + data[1:], r"test_batch.bin has the label 11"),
        ("py", lambda data: data[:5000], r"test_batch is no batch of CIFAR-10"),
        ("py", lambda data: pickle.dumps({"data": 1}), r"test_batch is no batch of CIFAR-10"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, layout: str, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    make_cifar10(tmp_path, layout)
    path = next((tmp_path / f"cifar-10-batches-{layout}").glob("test_batch*"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptFileError, match=message):
        CIFAR10(str(tmp_path)).setup("test")
