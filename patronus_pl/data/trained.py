"""Remember which images a model was trained on, and say when the images have changed since."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray


def fingerprints(ids: Sequence[str]) -> NDArray[np.int64]:
    """Return a hash of 64 bits for each id, sorted."""
    hashes = [hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in ids]
    return np.sort(np.frombuffer(b"".join(hashes), "<i8").astype(np.int64))


def _digest(listed: NDArray[np.int64]) -> str:
    return hashlib.blake2b(listed.tobytes(), digest_size=16).hexdigest()


@dataclass
class TrainedOn:
    """The images that a model was trained on, as a checkpoint keeps them.

    Args:
        trained: sorted fingerprints of the training images.
        count: number of images in all splits.
        digest: hash of the fingerprints of the images in all splits.
    """

    trained: NDArray[np.int64]
    count: int
    digest: str

    @classmethod
    def from_ids(cls, trained: Sequence[str], listed: Sequence[str]) -> "TrainedOn":
        """Describe training images, and all images that were listed."""
        return cls(fingerprints(trained), len(listed), _digest(fingerprints(listed)))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values and a tensor, as a checkpoint stores them."""
        return {"trained": torch.from_numpy(self.trained), "count": self.count, "digest": self.digest}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "TrainedOn | None":
        """Read what `as_dict` returned; None if it is something else."""
        trained, count, digest = (state.get(name) for name in ("trained", "count", "digest"))
        if isinstance(trained, torch.Tensor) and isinstance(count, int) and isinstance(digest, str):
            return cls(trained.to(torch.int64).flatten().numpy(), count, digest)
        return None

    def warn_of_changes(self, name: str, listed: Sequence[str]) -> None:
        """Warn if the listed images are not those of the training run."""
        now = fingerprints(listed)
        if _digest(now) == self.digest:
            return
        lost = int((~np.isin(self.trained, now)).sum())
        rank_zero_warn(
            f"{name}: the images have changed since the checkpoint was trained: {self.count} then, {len(now)} now; "
            f"{lost} of its {len(self.trained)} training images are missing"
        )

    def warn_of_known_images(self, name: str, split: str, ids: Sequence[str]) -> None:
        """Warn if images of the validation or test split were trained on."""
        known = int(np.isin(fingerprints(ids), self.trained).sum())
        if known:
            rank_zero_warn(
                f"{name}: the checkpoint was trained on {known} of the {len(ids)} images of the {split} split, which "
                "therefore measures memory; give the seed, fractions and split_by of the training run"
            )
