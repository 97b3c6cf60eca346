"""Decide which images train, validate and test."""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from patronus_pl.errors import InvalidOptionError

SplitRule = Literal["hash", "position"]

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What folders and table columns call a split."""


def split_groups(
    rule: SplitRule, groups: Sequence[str], val_fraction: float, test_fraction: float, seed: int
) -> list[str]:
    """Return `train`, `val` or `test` for each image, so that no group is in two of them.

    Args:
        rule: `hash` or `position`, see the functions below.
        groups: the group of each image: its own id, or what it shares with others, such as the patient.
        val_fraction: share of the groups that validate, at least 0 and below 1.
        test_fraction: share of the groups that test.
        seed: another seed gives another split.

    Raises:
        InvalidOptionError: a fraction outside [0, 1), or fractions that leave nothing to train on.
    """
    for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise InvalidOptionError(f"data.{name} is {value}; it is a share, at least 0 and below 1")
    draw = split_by_hash if rule == "hash" else split_by_position
    splits = draw(groups, val_fraction, test_fraction, seed)
    if splits and "train" not in splits:
        raise InvalidOptionError(
            f"data.val_fraction = {val_fraction} and data.test_fraction = {test_fraction} of {len(set(groups))} "
            "images or groups leave none to train on; lower them"
        )
    return splits


def split_by_hash(groups: Sequence[str], val_fraction: float, test_fraction: float, seed: int) -> list[str]:
    """Draw the split of each group from the seed and its name alone: a new image moves none of the others.

    With u in [0, 1) the hash of seed and name, a group tests if u < test_fraction, validates if u is below
    test_fraction + val_fraction, and trains otherwise. The shares are therefore approximate. A split that is wanted and
    that no group falls into takes one from training: testing the one with the largest u, validation with the smallest.
    When a new image later falls into that split, the group goes back to training; none ever leaves training.
    """
    u = {group: _uniform(group, seed) for group in groups}
    split = {
        group: "test" if x < test_fraction else "val" if x < test_fraction + val_fraction else "train"
        for group, x in u.items()
    }
    by_hash = sorted((x, group) for group, x in u.items() if split[group] == "train")
    if by_hash and test_fraction > 0 and "test" not in split.values():
        split[by_hash.pop()[1]] = "test"
    if by_hash and val_fraction > 0 and "val" not in split.values():
        split[by_hash[0][1]] = "val"
    return [split[group] for group in groups]


def _uniform(name: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on seed and name alone, whichever Unicode form the name is in."""
    text = f"{seed}\0{unicodedata.normalize('NFC', name)}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def split_by_position(groups: Sequence[str], val_fraction: float, test_fraction: float, seed: int) -> list[str]:
    """Draw exact shares by permuting the sorted groups, as version 0.1 did. A new image moves many of the others."""
    names, member = np.unique(np.array(groups, dtype=str), return_inverse=True)
    val, test = (int(np.ceil(share * len(names) - 1e-9)) for share in (val_fraction, test_fraction))
    split = ["train"] * (len(names) - val - test) + ["val"] * val + ["test"] * test
    drawn = np.random.default_rng(seed).permutation(len(names))
    return [split[drawn[group]] for group in member]


def split_by_folder(ids: Sequence[str]) -> list[str | None]:
    """Return the split that the folders of each image name, None where they name none.

    A folder counts if its name is one of `SPLIT_WORDS` and if, beside it, other folders name training and one more
    split: a folder of trains among other vehicles is no training split. The first such folder of a path decides.

    Args:
        ids: paths of the images from the root, with `/`.
    """
    words: dict[PurePosixPath, set[str]] = defaultdict(set)
    folders = [PurePosixPath(name).parent for name in ids]
    for step in {above for folder in folders for above in (folder, *folder.parents)}:
        if step.name.lower() in SPLIT_WORDS:
            words[step.parent].add(SPLIT_WORDS[step.name.lower()])
    heeded = {parent for parent, found in words.items() if "train" in found and len(found) > 1}
    found: dict[PurePosixPath, str | None] = {}
    for folder in set(folders):
        chain = [folder, *folder.parents]
        named = [SPLIT_WORDS.get(step.name.lower()) for step in reversed(chain) if step.parent in heeded]
        found[folder] = next((split for split in named if split), None)
    return [found[folder] for folder in folders]
