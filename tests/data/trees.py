"""Tiny data sets in the exact layouts of the real ones."""

import csv
import gzip
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CELEBA_HEADER = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young "
)
CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def picture(seed: int, height: int, width: int, channels: int = 3) -> Image.Image:
    """Smooth random blobs, which JPEG keeps."""
    shape = (6, 6, 3) if channels == 3 else (6, 6)
    small = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


# ---- Fashion-MNIST ---------------------------------------------------------------------------------------------------


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def make_fashion_mnist(root: Path, train: int = 40, test: int = 20, gz: bool = True) -> dict[str, NDArray[np.uint8]]:
    """Debian's and Zalando's layout; returns what was written."""
    root.mkdir(parents=True, exist_ok=True)
    rng, written = np.random.default_rng(0), {}
    for stem, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            data = idx(array)
            (root / f"{name}.gz" if gz else root / name).write_bytes(gzip.compress(data) if gz else data)
            written[name] = array
    return written


# ---- CIFAR-10 --------------------------------------------------------------------------------------------------------


def python2_batch(labels: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> bytes:
    """The pickle that Python 2 and NumPy of 2009 wrote: byte strings, protocol 2."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = (
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN" + number(-1) * 2 + b"K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    state = b"(K\x01" + number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86" + dtype + b"\x89"
    array += state + text(pixels.tobytes()) + b"tb"
    listed = b"](" + b"".join(number(int(label)) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def make_cifar10(
    root: Path, layout: str = "bin", count: int = 8
) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The binary (`bin`) or the Python (`py`) version; returns labels and pixels of each batch."""
    folder = root / f"cifar-10-batches-{layout}"
    folder.mkdir(parents=True, exist_ok=True)
    rng, written = np.random.default_rng(0), {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        if layout == "bin":
            (folder / f"{name}.bin").write_bytes(np.column_stack([labels, pixels]).tobytes())
        else:
            (folder / name).write_bytes(python2_batch(labels, pixels))
        written[name] = (labels, pixels)
    return written


# ---- CelebA ----------------------------------------------------------------------------------------------------------


def make_celeba(root: Path, count: int = 24, seed: int = 0) -> NDArray[np.int64]:
    """The official tree, half train, a quarter each val and test; returns attributes (count, 40) of -1/1."""
    (root / "img_align_celeba").mkdir(parents=True, exist_ok=True)
    attributes = np.random.default_rng(seed).choice([-1, 1], (count, len(CELEBA_HEADER.split())))
    names = [f"{i + 1:06d}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        picture(i, 218, 178).save(root / "img_align_celeba" / name, quality=95)
    rows = [f"{name} " + " ".join(f"{value:2d}" for value in row) for name, row in zip(names, attributes, strict=True)]
    (root / "list_attr_celeba.txt").write_text("\n".join([str(count), CELEBA_HEADER, *rows]) + "\n")
    part = [0 if i < count // 2 else 1 if i < 3 * count // 4 else 2 for i in range(count)]
    lines = [f"{name} {number}\n" for name, number in zip(names, part, strict=True)]
    (root / "list_eval_partition.txt").write_text("".join(lines))
    return attributes


# ---- FFHQ ------------------------------------------------------------------------------------------------------------

FACES = (("20-29", "female", "None"), ("50-69", "male", "Normal"), ("3-6", "male", "Dark"), ("30-39", "female", "None"))
AGING_HEADER = ["image_number", "age_group", "age_group_confidence", "gender", "gender_confidence", "glasses"]


def make_ffhq(root: Path, count: int = 20, thousands: bool = True, suffix: str = ".png", size: int = 128) -> None:
    """Images in folders of a thousand or flat, and the table of FFHQ-Aging beside them."""
    for i in range(count):
        path = root / (f"{i // 1000 * 1000:05d}" if thousands else ".") / f"{i:05d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i, size, size).save(path)
    rows = [(i, FACES[i % 4][0], 0.9, FACES[i % 4][1], 0.9, FACES[i % 4][2]) for i in range(count)]
    write_csv(root / "ffhq_aging_labels.csv", AGING_HEADER, rows)


def make_ffhq_features(folder: Path, count: int = 20) -> None:
    """`json/` of the FFHQ Features Dataset; image 0 has no face."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "00000.json").write_text("[]")
    for i in range(1, count):
        face = {"gender": ["male", "female"][i % 2], "age": float(5 * i), "glasses": ["NoGlasses", "Sunglasses"][i % 2]}
        (folder / f"{i:05d}.json").write_text(json.dumps([{"faceId": "x", "faceAttributes": face}]))


# ---- CheXpert --------------------------------------------------------------------------------------------------------


def make_chexpert(root: Path, patients: int = 12, height: int = 80, width: int = 96) -> dict[str, list[list[Any]]]:
    """`train.csv` (a frontal and a lateral view and a second study each) and `valid.csv`; returns their rows."""
    rng, written = np.random.default_rng(0), {}
    for split, first, count in (("train", 1, patients), ("valid", 64541, 4)):
        rows: list[list[Any]] = []
        for patient in range(first, first + count):
            for study, view in ((1, "frontal"), (1, "lateral"), (2, "frontal")):
                number = 2 if view == "lateral" else 1
                path = f"{split}/patient{patient:05d}/study{study}/view{number}_{view}.jpg"
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                picture(len(rows), height, width, channels=1).save(root / path)
                findings = rng.choice(["1.0", "0.0", "-1.0", ""], 14).tolist()
                sex = ["Male", "Female"][patient % 2]
                side = "AP" if view == "frontal" else ""
                rows.append([f"CheXpert-v1.0-small/{path}", sex, 40 + patient % 40, view.title(), side, *findings])
        write_csv(root / f"{split}.csv", CHEXPERT_HEADER.split(","), rows)
        written[split] = rows
    return written


# ---- any folder ------------------------------------------------------------------------------------------------------


def make_image_folder(root: Path, count: int = 20) -> Path:
    """Images of several sizes, depths and formats, and `attributes.csv` with a patient each two images."""
    rows = []
    for i in range(count):
        path = root / ["", "a", "a/b"][i % 3] / f"picture{i:03d}{['.png', '.jpg'][i % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i, 40 + i, 60 - i, channels=[1, 3][i % 2]).save(path)
        split = "train" if i < count // 2 else "val" if i < 3 * count // 4 else "test"
        rows.append(
            [path.relative_to(root).as_posix(), i % 2, -1 if i % 4 < 2 else 1, split, f"patient{i // 2}", 20 + i]
        )
    return write_csv(root / "attributes.csv", ["image", "Striped", "Round", "split", "patient", "age"], rows)


# ---- activations -----------------------------------------------------------------------------------------------------


def make_activations(path: Path, count: int = 40, prototypes: int = 6) -> dict[str, NDArray[Any]]:
    """What `patronus encode` writes."""
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {
        "activations": rng.random((count, prototypes)).astype(np.float32),
        "attributes": rng.integers(0, 2, (count, 2)).astype(np.float32),
        "attribute_names": np.array(["Smiling", "Eyeglasses"]),
        "ids": np.array([f"image-{i:03d}" for i in range(count)]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays
