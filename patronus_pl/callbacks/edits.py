"""`Edits`: `patronus predict` moves prototypes in whole batches of images, and writes what becomes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info

from patronus_pl.analysis.attributes.reading import best_attribute
from patronus_pl.analysis.editing.changes import Change, chosen
from patronus_pl.analysis.editing.decoding import encode
from patronus_pl.analysis.editing.guidance import calibrate
from patronus_pl.analysis.editing.inverting import PSNR_FLOOR, invert
from patronus_pl.analysis.pages.series import (
    Series,
    Variant,
    draw_grid,
    edited_series,
    interpolated_series,
    write_table,
)
from patronus_pl.analysis.ranges import set_ranges, unmeasured
from patronus_pl.data.base import SPLITS, ImageDataModule
from patronus_pl.diffusion import Sampler, Sampling
from patronus_pl.diffusion.guidance import LARGEST
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.runs import writable_folder
from patronus_pl.types import Activations, Attributes

CALIBRATED_ON = 8
"""Images on which the guidance weights that are `auto` are found."""
LONGEST = 80
"""Characters of an edit's name; file systems allow some 250 for that of a file."""


@dataclass(frozen=True)
class Edit:
    """One prototype, and where to.

    Args:
        prototype: its index; or the name of an attribute, for the prototype that reads it best on the validation split.
        to: how `value` is meant. `range`: 0 is the low and 1 the high end of the prototype's own range, and beyond;
            `absolute`: the activation itself; `quantile`: of its activations on the validation split; `factor`: times
            what the image has; `remove`: the low end of its range, without a value.
        value: where to; a list makes one picture for each.
        guidance: weight by which this edit is exaggerated, or `auto`; null takes that of `Edits`.
    """

    prototype: int | str
    to: Literal["range", "absolute", "quantile", "factor", "remove"] = "range"
    value: float | list[float] | None = None
    guidance: float | Literal["auto"] | None = None

    def check(self) -> None:
        """Raise InvalidOptionError for a missing or needless value, or a quantile or guidance outside its range."""
        if (self.value is None) != (self.to == "remove") or not self.values:
            wanted = "takes no value" if self.to == "remove" else "takes one or more numbers"
            raise InvalidOptionError(f"edit of prototype {self.prototype!r}: value is {self.value}; {self.to} {wanted}")
        if self.to == "quantile" and not all(0 <= value <= 1 for value in self.values):
            raise InvalidOptionError(f"edit of prototype {self.prototype!r}: quantile {self.value} must lie in [0, 1]")
        check_guidance(self.guidance, f"edit of prototype {self.prototype!r}")

    @property
    def values(self) -> list[float]:
        """One a picture."""
        return self.value if isinstance(self.value, list) else [self.value or 0.0]

    def changes(self, prototype: int, guidance: float) -> list[Variant]:
        """One a picture; its name says the edit's own guidance, if it has one."""
        weight = "" if self.guidance is None else f" w={self.guidance}"
        return [
            Variant(
                f"p{prototype}.{self.to}" + ("" if self.value is None else f"={value:g}") + weight,
                (Change(prototype, self.to, value, guidance),),
            )
            for value in self.values
        ]


@dataclass(frozen=True)
class Interpolation:
    """Pictures on the way from one image to another: s along the line, x_T along the great circle.

    Args:
        start: an image's id, or its row in the test split.
        end: another's.
        pictures: how many, both ends included.
    """

    start: int | str
    end: int | str
    pictures: int = 9

    def check(self) -> None:
        """Raise InvalidOptionError if there are fewer than two pictures."""
        if self.pictures < 2:
            raise InvalidOptionError(f"an interpolation has {self.pictures} picture(s); it takes at least 2")


class Placed(NamedTuple):
    """A series, and its place among all of its kind, whichever rank drew it."""

    place: int
    series: Series


class Edits(pl.Callback):
    """Edit every image that `patronus predict` reads: a PNG file each, a grid of the first ones, and `edits.csv`.

    Images are inverted under their own activations and decoded from the same noise under the new ones. The table has a
    line for each image, edit and prototype: the weight of its `guidance`, s of the `original`, s of the `unedited`
    picture (decoded under its own activations), the `requested` s, the `realised` s (of the picture in the file,
    encoded again) and `change`, which is realised - unedited, for the prototypes that are `edited` and for all others.
    Images that come back from their own noise with less than 25 dB are `flagged`: their edits start from another
    picture. A model whose ranges were never measured, as an imported one, is given those of the reference images.

    Args:
        edits: which prototypes, and where to.
        guidance: weight w by which edits are exaggerated, D(s) + w (D(s') - D(s)): above 1 more of what was asked for
            arrives, and other things may move too. 1 is no guidance; other weights take twice as long. `auto` finds for
            each prototype the weight, from 1 to 8, at which its edits of a few validation images arrive in full. Edits
            in one picture share the mean of their weights, weighted by how far each moves its prototype.
        together: all edits in one picture, each value of one with each value of the others; False: one edit a picture.
        interpolations: pairs of images.
        images: how many to edit, the first ones; None for all.
        steps: of inversion and sampler.
        sampler: of the edited pictures.
        batch_size: pictures decoded at once.
        reference: images of the validation split on which attributes, quantiles and missing ranges are looked up, the
            first ones.
        rows: images in a grid.
        out: folder to write to; None is `edits` in the folder of the run. Files of the same names are replaced.

    Raises, when predicting starts:
        InvalidOptionError: nothing to do, an impossible option, or no such prototype, attribute or image.
        OutputError: the folder cannot be written.
    """

    def __init__(
        self,
        edits: list[Edit] | None = None,
        together: bool = True,
        interpolations: list[Interpolation] | None = None,
        images: int | None = None,
        steps: int = 20,
        sampler: Sampler = "dpm++",
        batch_size: int = 64,
        reference: int = 2048,
        rows: int = 16,
        out: str | None = None,
        guidance: float | Literal["auto"] = 1.0,
    ) -> None:
        self.edits, self.together, self.interpolations = edits or [], together, interpolations or []
        self.images, self.steps, self.sampler, self.batch_size = images, steps, sampler, batch_size
        self.reference, self.rows, self.out, self.guidance = reference, rows, out, guidance

    # ------------------------------------------------------------------------------------------------- what is asked

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse impossible options. The constructor does not: jsonargparse would bury the message under its own."""
        if not self.edits and not self.interpolations:
            raise InvalidOptionError("Edits has nothing to do; give it edits or interpolations")
        for name in ("images", "steps", "batch_size", "reference", "rows"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InvalidOptionError(f"Edits.{name} is {number}; it must be at least 1")
        check_guidance(self.guidance, "Edits")
        for edit in self.edits:
            edit.check()
        for pair in self.interpolations:
            pair.check()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out what to do, before anything is drawn."""
        run = trainer.log_dir  # every rank must ask
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, PatronusModule) or not isinstance(data, ImageDataModule):
            raise InvalidOptionError(
                f"Edits needs a PatronusModule and an ImageDataModule, not {type(pl_module).__name__} and "
                f"{type(data).__name__}; choose others or leave the callback out"
            )
        self._s, attributes = self._looked_up(pl_module, data)
        prototypes = self._prototypes(pl_module, attributes, data.attribute_names)
        self._variants = self._all_variants(prototypes, self._weights(pl_module, data, prototypes))
        self._ends = [(find_image(data, pair.start), find_image(data, pair.end)) for pair in self.interpolations]
        self._folder = writable_folder(Path(self.out or Path(run or ".", "edits")), "Edits.out")
        self._drawn: list[Placed] = []

    def _looked_up(self, model: PatronusModule, data: ImageDataModule) -> tuple[Activations | None, Attributes | None]:
        """Activations and attributes of the validation split, if an edit needs them, or the model its ranges."""
        ranges_missing = bool(self.edits) and unmeasured(model)
        if not ranges_missing and not any(
            isinstance(edit.prototype, str) or edit.to == "quantile" for edit in self.edits
        ):
            return None, None
        table = data.table("val")
        rows = range(min(self.reference, len(table)))
        chunks = [table.__getitems__(rows[i : i + self.batch_size]) for i in range(0, len(rows), self.batch_size)]
        s = torch.cat([encode(model, as_floats(chunk["image"]), self.batch_size) for chunk in chunks])
        if ranges_missing:
            set_ranges(model, s)
        return s, torch.cat([chunk["attributes"] for chunk in chunks])

    def _prototypes(self, model: PatronusModule, attributes: Attributes | None, names: Sequence[str]) -> list[int]:
        """The prototype of each edit."""
        found = [
            edit.prototype if isinstance(edit.prototype, int) else self._reader(edit.prototype, attributes, names)
            for edit in self.edits
        ]
        return chosen(model, found)

    def _weights(self, model: PatronusModule, data: ImageDataModule, prototypes: Sequence[int]) -> list[float]:
        """The guidance weight of each edit; those that are `auto` are found on the first validation images."""
        wanted = [self.guidance if edit.guidance is None else edit.guidance for edit in self.edits]
        automatic = sorted({j for j, weight in zip(prototypes, wanted, strict=True) if weight == "auto"})
        found = torch.ones(model.prototypes.count)
        if automatic:
            table, sampling = data.table("val"), self._sampling()
            images = as_floats(table.__getitems__(range(min(CALIBRATED_ON, len(table))))["image"])
            found = calibrate(model, invert(model, images, sampling), automatic, sampling)
            rank_zero_info("guidance: " + ", ".join(f"prototype {j} {float(found[j]):.2f}" for j in automatic))
        pairs = zip(prototypes, wanted, strict=True)
        return [round(float(found[j]), 2) if isinstance(weight, str) else weight for j, weight in pairs]

    def _all_variants(self, prototypes: Sequence[int], weights: Sequence[float]) -> list[Variant]:
        each = [edit.changes(j, w) for edit, j, w in zip(self.edits, prototypes, weights, strict=True)]
        if not self.together:
            return [variant for variants in each for variant in variants]
        return [united(variants, k) for k, variants in enumerate(product(*each))] if each else []

    def _reader(self, name: str, attributes: Attributes | None, names: Sequence[str]) -> int:
        """The prototype that reads an attribute best."""
        if self._s is None or attributes is None or name not in names:
            raise InvalidOptionError(f"there is no attribute {name!r}; the data have {', '.join(names) or 'none'}")
        reading, a = best_attribute(self._s, attributes, names), list(names).index(name)
        j = int(reading.prototype[a])
        if j < 0:
            raise InvalidOptionError(
                f"{name!r} is the same in all {len(attributes)} images looked at; raise Edits.reference or name another"
            )
        side = "high" if reading.prototype_sign[a] > 0 else "low"
        rank_zero_info(f"{name}: prototype {j}, {side} where it is present (AUROC {reading.prototype_auroc[a]:.2f})")
        return j

    # ------------------------------------------------------------------------------------------------------ drawing

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Edit a batch."""
        ids: list[str] = batch["id"]
        if self.images is not None:  # ranks take images in turn
            ids = ids[: max(0, len(range(trainer.global_rank, self.images, trainer.world_size)) - len(self._drawn))]
        if self.edits and ids and isinstance(pl_module, PatronusModule):
            images, sampling = batch["image"][: len(ids)], self._sampling()
            for series in edited_series(pl_module, images, ids, self._variants, self._s, sampling):
                self._keep(series, len(self._drawn) * trainer.world_size + trainer.global_rank)

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Interpolate, and put together what all ranks have."""
        for k in range(trainer.global_rank, len(self.interpolations), trainer.world_size):
            ids = [batch["id"][0] for batch in self._ends[k]]
            ends = as_floats(torch.cat([batch["image"] for batch in self._ends[k]]))
            if isinstance(pl_module, PatronusModule):
                count = self.interpolations[k].pictures
                self._keep(interpolated_series(pl_module, ends, ids, count, self._sampling()), k)
        everything = from_all_ranks(trainer, self._drawn)
        if trainer.is_global_zero:
            ordered = sorted(everything, key=lambda placed: (placed.series.kind, placed.place))
            self._write([placed.series for placed in ordered])

    def _sampling(self) -> Sampling:
        return Sampling(self.steps, self.sampler, batch_size=self.batch_size)

    def _keep(self, series: Series, place: int) -> None:
        """Write the pictures; keep the numbers, and of the pictures only those for the grid."""
        series.save(self._folder)
        if place >= self.rows:
            series = series._replace(pictures=series.pictures[:0])
        self._drawn.append(Placed(place, series))

    def _write(self, everything: list[Series]) -> None:
        write_table(self._folder / "edits.csv", everything)
        kinds = {series.kind: [other for other in everything if other.kind == series.kind] for series in everything}
        for kind, rows in kinds.items():
            shown = [series for series in rows if len(series.pictures)]
            (self._folder / f"{kind}.png").write_bytes(draw_grid(shown))
        poor = sum(series.flagged for series in everything)
        rank_zero_info(
            f"{sum(len(series.names) for series in everything)} pictures -> {self._folder} "
            f"({poor} of {len(everything)} images come back from their own noise with less than {PSNR_FLOOR:g} dB)"
        )


def check_guidance(weight: float | str | None, of: str) -> None:
    """Raise InvalidOptionError if a weight is no number or a huge one."""
    if isinstance(weight, (int, float)) and not abs(weight) <= LARGEST:
        raise InvalidOptionError(
            f"{of}: guidance is {weight}; give a number between -{LARGEST:g} and {LARGEST:g}, or auto"
        )


def united(variants: Sequence[Variant], number: int) -> Variant:
    """Several changes at once, under a name that is short enough for a file."""
    name = ",".join(variant.name for variant in variants)
    if len(name) > LONGEST:
        name = f"{name[:LONGEST]}...{number}"
    return Variant(name, tuple(change for variant in variants for change in variant.changes))


def find_image(data: ImageDataModule, which: int | str) -> dict[str, Any]:
    """A batch of one image: that row of the test split, or the image of that id in any split.

    Raises:
        InvalidOptionError: there is none.
    """
    test = data.table("test")
    if isinstance(which, int) and 0 <= which < len(test):
        return test.__getitems__([which])
    if isinstance(which, str):
        for table in map(data.table, reversed(SPLITS)):
            if which in table.ids:
                return table.__getitems__([table.ids.index(which)])
    raise InvalidOptionError(
        f"there is no image {which!r}; give a row of the test split (0..{len(test) - 1}) or an id like {test.ids[0]!r}"
    )


def from_all_ranks(trainer: pl.Trainer, mine: list[Placed]) -> list[Placed]:
    """What all ranks have, on every rank."""
    if trainer.world_size == 1:
        return mine
    everyone: list[list[Placed]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(everyone, mine)
    return [placed for theirs in everyone for placed in theirs]
