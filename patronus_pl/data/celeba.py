"""`CelebA`: 202,599 faces of celebrities with 40 attributes (Liu et al., ICCV 2015; non-commercial research)."""

from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.base import SPLITS, require_file
from patronus_pl.data.bias import BiasedSubset
from patronus_pl.data.files import ImageFiles, Listing, by_split
from patronus_pl.errors import AttributeTableError, CorruptFileError

KINDS = {
    "5_o_Clock_Shadow": "local",
    "Arched_Eyebrows": "local",
    "Attractive": "global",
    "Bags_Under_Eyes": "local",
    "Bald": "local",
    "Bangs": "local",
    "Big_Lips": "local",
    "Big_Nose": "local",
    "Black_Hair": "local",
    "Blond_Hair": "local",
    "Blurry": "global",
    "Brown_Hair": "local",
    "Bushy_Eyebrows": "local",
    "Chubby": "global",
    "Double_Chin": "local",
    "Eyeglasses": "local",
    "Goatee": "local",
    "Gray_Hair": "local",
    "Heavy_Makeup": "global",
    "High_Cheekbones": "local",
    "Male": "global",
    "Mouth_Slightly_Open": "local",
    "Mustache": "local",
    "Narrow_Eyes": "local",
    "No_Beard": "local",
    "Oval_Face": "global",
    "Pale_Skin": "global",
    "Pointy_Nose": "local",
    "Receding_Hairline": "local",
    "Rosy_Cheeks": "local",
    "Sideburns": "local",
    "Smiling": "local",
    "Straight_Hair": "local",
    "Wavy_Hair": "local",
    "Wearing_Earrings": "local",
    "Wearing_Hat": "local",
    "Wearing_Lipstick": "local",
    "Wearing_Necklace": "local",
    "Wearing_Necktie": "local",
    "Young": "global",
}
"""Whether one part of the picture shows an attribute, or all of it."""

ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"


class CelebA(ImageFiles):
    """The aligned images, all 40 attributes and the official partition.

    Args:
        root: folder with `img_align_celeba/`, `list_attr_celeba.txt` and `list_eval_partition.txt`.
        image_size: height and width in pixels.
        batch_size: images a step and device.
        num_workers: loader processes.
        seed: unused here: the partition is official.
        limit: keep the first n images of each split.
        bias: keep only images that satisfy a `BiasedSubset`.
        crop: `none` squashes 178×218 into a square, as the paper does; `center` cuts the central 178×178, as most
            others do.
        cache_dir: where decoded images are kept; by default `.patronus_cache` in the root.
        max_unreadable: share of unreadable images that are skipped with a warning; more are an error.
        in_memory_mb: splits up to this size are read into memory.

    Raises:
        DatasetNotFoundError: the folder, a list, or images are missing.
        AttributeTableError: the lists do not hold what they should.
    """

    attribute_names = tuple(KINDS)
    attribute_kind = tuple(KINDS.values())
    remedy = (
        f"set data.root to the folder that holds {IMAGES}/, {ATTRIBUTES} and {PARTITION} "
        "(https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html)"
    )

    def __init__(
        self,
        root: str,
        image_size: int = 64,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        limit: int | None = None,
        bias: BiasedSubset | None = None,
        crop: Literal["center", "none"] = "none",
        cache_dir: str | None = None,
        max_unreadable: float = 0.001,
        in_memory_mb: int = 1024,
    ) -> None:
        super().__init__(
            root,
            image_size,
            batch_size,
            num_workers,
            seed,
            limit,
            bias,
            3,
            crop,
            cache_dir,
            max_unreadable,
            in_memory_mb,
        )

    def list_splits(self, root: Path) -> dict[str, Listing]:
        """The official partition."""
        names, attributes = _read_attributes(require_file(root / ATTRIBUTES, "CelebA", self.remedy))
        parts = _read_partition(require_file(root / PARTITION, "CelebA", self.remedy), names)
        folder = root / IMAGES
        if (folder / IMAGES).is_dir():  # one archive in circulation nests the folder in itself
            folder /= IMAGES
        return by_split(Listing([folder / name for name in names], attributes, names), parts)


def _read_attributes(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """File names and (n, 40) of 0/1 from a count, a line of attribute names, and a line of -1/1 an image."""
    count, header, *lines = path.read_text().splitlines() or [""]
    found = header.split()
    if found != list(KINDS):
        strange = [name for name in KINDS if name not in found] or found
        raise AttributeTableError(
            f"{path}: line 2 must name CelebA's 40 attributes in order; found {len(found)} names, wrong or missing: "
            f"{', '.join(strange[:5])}"
        )
    lines = [line for line in lines if line.strip()]
    if not count.strip().isdigit() or int(count) != len(lines):
        raise CorruptFileError(f"{path} announces {count.strip()!r} images and has {len(lines)}; fetch it again")
    names, attributes = [], np.empty((len(lines), len(KINDS)), np.float32)
    for i, line in enumerate(lines):
        name, *values = line.split()
        if len(values) != len(KINDS) or not set(values) <= {"1", "-1"}:
            wrong = next((value for value in values if value not in ("1", "-1")), f"{len(values)} values")
            raise AttributeTableError(f"{path}: {name} has {wrong!r}; each image has 40 values, each -1 or 1")
        names.append(name)
        attributes[i] = [value == "1" for value in values]
    _no_repetition(path, names)
    return names, attributes


def _read_partition(path: Path, names: list[str]) -> list[str]:
    """The split of each name."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    for row in rows:
        if len(row) != 2 or row[1] not in ("0", "1", "2"):
            raise AttributeTableError(f"{path}: cannot read {' '.join(row)!r}; write a file name and 0, 1 or 2")
    _no_repetition(path, [row[0] for row in rows])
    part = {name: SPLITS[int(number)] for name, number in rows}
    if lost := [name for name in names if name not in part]:
        raise AttributeTableError(f"{path} lacks {len(lost)} images of {ATTRIBUTES}, first {lost[0]}; fetch it again")
    return [part[name] for name in names]


def _no_repetition(path: Path, names: list[str]) -> None:
    name, count = max(Counter(names).items(), key=itemgetter(1), default=("", 0))
    if count > 1:
        raise AttributeTableError(f"{path}: {name} appears {count} times; keep one")
