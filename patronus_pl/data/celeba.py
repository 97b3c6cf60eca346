"""`CelebA`: 202,599 faces of celebrities with 40 attributes (Liu et al., ICCV 2015; non-commercial research)."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patronus_pl.data.base import SPLITS
from patronus_pl.data.files import ImageFiles, Listing, by_split
from patronus_pl.data.roots import require_file
from patronus_pl.data.table import Table
from patronus_pl.data.table_files import read_table
from patronus_pl.errors import AttributeTableError, CorruptFileError, DatasetNotFoundError

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

ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba", "list_eval_partition", "img_align_celeba"
FOLDERS = ("", "Anno", "Eval", "Img", "celeba")
"""Where lists and images may lie below the root: side by side, as on the authors' drive, or as torchvision does."""


class CelebA(ImageFiles):
    """The aligned images, all 40 attributes and the official partition.

    The lists are the authors' text files or the CSV files of Kaggle. Lists and images may lie in the root, in `Anno/`,
    `Eval/` and `Img/`, or in `celeba/`. The seed and `split_by` are unused: the partition is official. Further
    arguments are those of `ImageFiles`; `crop: none` squashes 178×218 into a square, as the paper does, and `center`
    cuts the central 178×178, as most others do.

    Args:
        root: folder with `img_align_celeba/`, `list_attr_celeba` and `list_eval_partition`.
        image_size: height and width in pixels.

    Raises:
        DatasetNotFoundError: the folder, a list, or images are missing.
        AttributeTableError: the lists do not hold what they should.
    """

    attribute_names = tuple(KINDS)
    attribute_kind = tuple(KINDS.values())
    remedy = (
        f"set data.root to the folder that holds {IMAGES}/, {ATTRIBUTES}.txt and {PARTITION}.txt "
        "(https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html)"
    )

    def __init__(self, root: str, image_size: int = 64, **kwargs: Any) -> None:
        super().__init__(root, image_size, channels=3, **kwargs)

    def list_splits(self, root: Path) -> dict[str, Listing]:
        """Read the lists and split by the official partition."""
        table = self._list(root, ATTRIBUTES)
        names, attributes = _attributes(table)
        splits = _splits(self._list(root, PARTITION), table, names)
        return by_split(Listing(_images(root, names), attributes, names), splits)

    def _list(self, root: Path, stem: str) -> Table:
        places = [root / folder / f"{stem}{suffix}" for folder in FOLDERS for suffix in (".txt", ".csv")]
        path = next((place for place in places if place.is_file()), places[0])
        require_file(path, "CelebA", self.remedy)
        return read_table(path) if path.suffix == ".csv" else _read_text(path)


def _read_text(path: Path) -> Table:
    """Read a list of the authors: values between spaces, under a count and a line of names where it has these."""
    lines = path.read_text().splitlines() or [""]
    header, first = ["name", "partition"], 0
    if path.stem != PARTITION:
        count, header, first = lines[0], ["name", *(lines[1].split() if len(lines) > 1 else [])], 2
        found = sum(1 for line in lines[2:] if line.strip())
        if header[1:] == list(KINDS) and (not count.strip().isdigit() or int(count) != found):
            raise CorruptFileError(f"{path} announces {count.strip()!r} images and has {found}; fetch it again")
    rows = [(number, line.split()) for number, line in enumerate(lines[first:], 1) if line.strip()]
    for _, (name, *values) in rows:
        if len(values) != len(header) - 1:
            raise AttributeTableError(
                f"{path}: {name} has {f'{len(values)} values'!r}; each image has {len(header) - 1} values"
            )
    columns = {name: [row[k] for _, row in rows] for k, name in enumerate(header)}
    return Table(path, columns, [number for number, _ in rows])


def _attributes(table: Table) -> tuple[list[str], NDArray[np.float32]]:
    """Return the names of the images, and their attributes as (n, 40) of 0 and 1."""
    column, *found = table.columns
    if found != list(KINDS):
        strange = [name for name in KINDS if name not in found] or found
        raise AttributeTableError(
            f"{table.path} must name CelebA's 40 attributes in order; found {len(found)} names, wrong or missing: "
            f"{', '.join(strange[:5])}"
        )
    names = table.unique(column)
    values = np.array([table.columns[name] for name in KINDS]).T.reshape(len(names), len(KINDS))
    wrong = np.argwhere((values != "1") & (values != "-1"))
    if len(wrong):
        row, k = wrong[0]
        raise AttributeTableError(
            f"{table.path}: {names[row]} has {str(values[row, k])!r}; each image has {len(KINDS)} values, each -1 or 1"
        )
    return names, (values == "1").astype(np.float32)


def _splits(partition: Table, attributes: Table, names: list[str]) -> list[str]:
    """Return the official split of each image."""
    column, *numbers = partition.columns
    if len(numbers) != 1:
        raise AttributeTableError(f"{partition.path} has {len(numbers) + 1} columns; a name and 0, 1 or 2 are needed")
    part = dict(zip(partition.unique(column), partition.columns[numbers[0]], strict=True))
    for name, number in part.items():
        if number not in ("0", "1", "2"):
            raise AttributeTableError(
                f"{partition.path}: cannot read '{name} {number}'; write a file name and 0, 1 or 2"
            )
    if lost := [name for name in names if name not in part]:
        raise AttributeTableError(
            f"{partition.path} lacks {len(lost)} images of {attributes.path.name}, first {lost[0]}; fetch it again"
        )
    return [SPLITS[int(part[name])] for name in names]


def _images(root: Path, names: list[str]) -> list[Path]:
    """Return the files of the images: JPEG, nested once or not, or the PNG version."""
    places = [root / folder / name for folder in FOLDERS for name in (IMAGES, f"{IMAGES}_png")]
    places = [place / place.name if (place / place.name).is_dir() else place for place in places]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        archives = [path for name in FOLDERS for path in (root / name).glob(f"{IMAGES}*.*") if path.is_file()]
        there = f"unpack {archives[0]}" if archives else f"put the images of the data set into {root / IMAGES}"
        raise DatasetNotFoundError(f"CelebA: no folder {IMAGES} in {root}; {there}")
    png = folder.name == f"{IMAGES}_png"
    return [folder / (Path(name).stem + ".png" if png else name) for name in names]
