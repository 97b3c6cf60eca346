"""`Pictures`: a callback that draws prototypes, their emergence and reconstructions while a model is trained."""

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image as PillowImage

from patronus_pl.analysis.editing.decoding import decode, encode
from patronus_pl.analysis.editing.inverting import Inverted, invert
from patronus_pl.analysis.editing.jobs import turn_up
from patronus_pl.analysis.explain.census import census
from patronus_pl.analysis.explain.patches import top_patches
from patronus_pl.analysis.explain.reconstruction import reconstruct
from patronus_pl.analysis.explain.recovery import FEWEST, recovery
from patronus_pl.analysis.explain.what import what
from patronus_pl.analysis.explain.when import emergence
from patronus_pl.analysis.pages.charts import census_picture, matrix, recovery_map
from patronus_pl.analysis.pages.figures import image_grid
from patronus_pl.data.base import ImageDataModule
from patronus_pl.data.image_table import ImageTable
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.types import Box, Image

PATCHES = 6
"""How many real images the gallery shows of each prototype."""
RECOVERED, LEVELS = 64, 12
"""On how many images, and at how many noise levels, recovery is measured."""
BATCH = 64


class Pictures(pl.Callback):
    """Draw pictures of the validation split after a validation, with the averaged weights, on rank 0.

    `gallery`: for each prototype, an image, the same with the prototype turned up, and the images that show it most.
    `emergence`: prototypes × timesteps. `recovery`: prototypes × noise levels, how much of each a noisy image alone
    tells; only of models with masks. `reconstructions`: from inverted and from random noise. `census`: how much each
    prototype varies, which vary together, and the dead, duplicate and global ones by name. They go to the folder
    `images` of the run as PNG files, and to every logger that takes images. Training is the same with and without: no
    common random number is used, and whatever goes wrong ends in one warning.

    Drawing takes at most `share` of the run after its first time: it waits until the time since the last drawing is
    1 / share times what that one took. Logged: `pictures/seconds` and `pictures/share`, of the run so far.

    List it after `PrototypeStatistics`, whose ranges it turns prototypes up to, and before `EMA`.

    Args:
        gallery: whether to draw the gallery.
        emergence: whether to draw emergence.
        recovery: whether to draw recovery, of models with masks.
        reconstructions: whether to draw reconstructions.
        census: whether to draw the census.
        every: draw after every so many validations.
        share: largest share of the run's time that drawing takes, above 0; at 1 it always draws.
        prototypes: how many prototypes are drawn, the first ones.
        images: how many images are searched for patches, the first ones of the split. Eight of them are reconstructed,
            and up to 64 tell when prototypes are known.
        edited: how many of them are edited for gallery and emergence.
        steps: steps of inversion and samplers.

    Raises, when training starts:
        InvalidOptionError: a number that is not positive.
    """

    def __init__(
        self,
        gallery: bool = True,
        emergence: bool = True,
        recovery: bool = True,
        reconstructions: bool = True,
        census: bool = True,
        every: int = 1,
        share: float = 0.02,
        prototypes: int = 16,
        images: int = 256,
        edited: int = 2,
        steps: int = 10,
    ) -> None:
        drawn = {
            "gallery": (gallery, self.gallery),
            "emergence": (emergence, self.emergence),
            "recovery": (recovery, self.recovery),
            "reconstructions": (reconstructions, self.reconstructions),
            "census": (census, self.census),
        }
        self.kinds = {kind: draw for kind, (wanted, draw) in drawn.items() if wanted}
        self.every, self.share = every, share
        self.prototypes, self.images, self.edited, self.steps = prototypes, images, edited, steps
        self._start = self._wait_until = math.nan
        self._validations, self._spent, self._warned = 0, 0.0, False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse impossible options. The constructor does not: jsonargparse would bury the message under its own."""
        for name in ("every", "share", "prototypes", "images", "edited", "steps"):
            if getattr(self, name) <= 0:
                raise InvalidOptionError(f"Pictures.{name} is {getattr(self, name)}; it must be greater than 0")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; a trial run of one batch draws nothing."""
        if not getattr(trainer, "fast_dev_run", False):
            self._start = self._wait_until = time.monotonic()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, if there has been enough training since the last time."""
        data: Any = getattr(trainer, "datamodule", None)
        training = math.isfinite(self._start) and not trainer.sanity_checking
        if not training or not isinstance(pl_module, PatronusModule) or not isinstance(data, ImageDataModule):
            return
        run = trainer.log_dir  # every rank must ask
        self._validations += 1
        began = time.monotonic()
        if trainer.is_global_zero and self._validations % self.every == 0 and began >= self._wait_until:
            with isolate_rng():
                self._try(lambda: self._draw(trainer, pl_module, data, Path(run or ".", "images")))
            now = time.monotonic()
            self._spent += now - began
            self._wait_until = now + (now - began) * (1 / self.share - 1)
            pl_module.log("pictures/seconds", now - began, rank_zero_only=True)
            pl_module.log("pictures/share", self._spent / (now - self._start), rank_zero_only=True)

    def _try(self, draw: Callable[[], None]) -> None:
        try:
            draw()
        except Exception as error:
            if not self._warned:
                rank_zero_warn(f"Pictures: {type(error).__name__}: {error}; training goes on without them")
            self._warned = True

    def _draw(self, trainer: pl.Trainer, model: PatronusModule, data: ImageDataModule, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, draw in self.kinds.items():
            if kind == "recovery" and (model.masks is None or len(data.table("val")) < FEWEST):
                continue  # without masks, or with so few images, it cannot be measured
            png = draw(model, data.table("val"))
            (folder / f"{kind}_{trainer.global_step:07d}.png").write_bytes(png)
            for logger in trainer.loggers:
                send(logger, f"pictures/{kind}", png, trainer.global_step)

    # ----------------------------------------------------------------------------------------------------- pictures

    def _which(self, model: PatronusModule) -> list[int]:
        return list(range(min(self.prototypes, model.prototypes.count)))

    def _inverted(self, model: PatronusModule, images: Image) -> tuple[Inverted, Image]:
        """Invert images, and decode them again unedited."""
        inverted = invert(model, images, Sampling(self.steps))
        return inverted, decode(model, inverted.x_T, inverted.s, Sampling(self.steps))

    def gallery(self, model: PatronusModule, table: ImageTable) -> bytes:
        """Draw for each prototype an image, the same with it turned up, and the images that show it most."""
        which = self._which(model)
        inverted, unedited = self._inverted(model, images_of(table, range(self.edited)))
        turned = what(model, turn_up(model, inverted, unedited, which, Sampling(self.steps)))
        top = top_patches(model, batches(table, self.images), PATCHES)
        real = [images_of(table, rows) for rows in top.index[which].tolist()]
        pictures = torch.stack(
            [torch.cat([turned.before(p), turned.after(p), images]) for p, images in enumerate(real)]
        )
        boxes = torch.cat([turned.box, turned.box, top.box[which]], dim=1)
        found: list[list[Box | None]] = [[(a, b, c, d) for a, b, c, d in row] for row in boxes.tolist()]
        labels = ["as it is", "turned up", *(f"top {k + 1}" for k in range(len(real[0])))]
        return image_grid(pictures, [f"prototype {j}" for j in which], labels, found)

    def emergence(self, model: PatronusModule, table: ImageTable) -> bytes:
        """Draw how much of an edit shows at each step of sampling."""
        sampling = Sampling(self.steps)
        inverted = invert(model, images_of(table, range(self.edited)), sampling)
        timed = emergence(model, inverted, self._which(model), sampling)
        span = float(timed.t[0]), float(timed.t[-1]), float(len(timed.map)), 0.0
        return matrix(timed.map, "Emergence", "prototype", "timestep", span, 1.0)

    def recovery(self, model: PatronusModule, table: ImageTable) -> bytes:
        """Draw how much of each prototype a noisy image alone tells."""
        images = images_of(table, range(min(RECOVERED, self.images)))
        return recovery_map(recovery(model, images, Sampling(self.steps), LEVELS), self._which(model))

    def reconstructions(self, model: PatronusModule, table: ImageTable) -> bytes:
        """Draw images from their inverted noise and from random noise."""
        images = images_of(table, range(min(8, self.images)))
        made = reconstruct(model, *self._inverted(model, images), Sampling(self.steps), n_random=1)
        grid = torch.stack([images, made.inverted, made.random[0]])
        return image_grid(grid, ["original", "inverted noise", "random noise"])

    def census(self, model: PatronusModule, table: ImageTable) -> bytes:
        """Draw how much each prototype varies, and which vary together."""
        images = (as_floats(batch["image"]) for batch in batches(table, self.images))
        s = torch.cat([encode(model, x) for x in images])
        spread = top_patches(model, batches(table, self.images), 1).spread
        return census_picture(census(s, model.prototypes.vectors.detach(), spread))


def images_of(table: ImageTable, rows: Sequence[int]) -> Image:
    """Return the images of those rows that the table has, as floats in [-1, 1]."""
    return as_floats(table.__getitems__([row for row in rows if row < len(table)])["image"])


def batches(table: ImageTable, count: int) -> Iterator[dict[str, Any]]:
    """Yield the first images in batches. A data loader is not used, for making one draws a common random number."""
    rows = range(min(count, len(table)))
    return (table.__getitems__(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH))


def send(logger: Logger, name: str, png: bytes, step: int) -> None:
    """Give a picture to a logger that takes them, as TensorBoard or as Weights & Biases do."""
    picture = PillowImage.open(io.BytesIO(png)).convert("RGB")
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(logger, "log_image"):
        logger.log_image(name, [picture], step=step)
    elif hasattr(experiment, "add_image"):
        experiment.add_image(name, np.asarray(picture), step, dataformats="HWC")
