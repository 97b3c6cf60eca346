"""Draw every picture and chart of the report: for its page, and as PNG files beside it."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.analysis.explain.where import locate, pixel_map
from patronus_pl.analysis.pages import figures
from patronus_pl.analysis.pages.figures import Pixels
from patronus_pl.analysis.pages.page import Picture, embed, line_path, shrink, steps_path, template
from patronus_pl.analysis.report.findings import Findings
from patronus_pl.analysis.subject import Subject
from patronus_pl.modules import PatronusModule
from patronus_pl.pixels import as_floats
from patronus_pl.types import Box, Image

HEADLINE = 3
"""How many prototypes are shown at the top of the page."""
HEADS = 6
"""How many images are shown at the top of the page."""
FACES = 4
"""Images on which a prototype's place and edits are shown: in half of them it is strongest, in half weakest."""
OTHERS = 5
"""How many of the other prototypes that an edit moves most are listed with it."""
CELL = 9, 11
"""Height and width of a cell of the timing maps, in half screen pixels."""


# ---- pictures --------------------------------------------------------------------------------------------------------


def _pictures(model: PatronusModule, findings: Findings, subject: Subject) -> Iterator[tuple[str, Picture]]:
    """Yield every picture of the page with its name."""
    real = subject.first(findings.faithfulness.pictures.shape[1])
    yield "real", Picture.of(real[None, :HEADS], 96)
    yield from _reconstructions(findings, real)
    for j in _headline(findings):
        yield f"switch-{j}", Picture.of(_edits(findings, j)[:HEADS, [0, -1]].transpose(0, 1), 96)
    with torch.inference_mode():
        similar = model.similarity_map(real.to(model.device)).cpu()
    boxes = locate(model, real).box
    for j in range(model.prototypes.count):
        strong, weak = _extremes(findings.activations[: len(real), j])
        marked: list[Box | None] = [*as_boxes(boxes[strong, j]), *(None for _ in weak)]
        found = [[box, None] for box in marked]
        places = pixel_map(similar[:, j : j + 1], model.encoder.receptive_field, *real.shape[-2:])[:, 0]
        yield f"edit-{j}", Picture.of(_edits(findings, j)[strong + weak], 64)
        yield f"where-{j}", Picture.of(_looks(real, places)[strong + weak], 64, found)
        yield from zip((f"what-{j}", f"grown-{j}"), _turned_up(model, findings, j), strict=True)
        yield from zip((f"top-{j}", f"crops-{j}"), _top(model, findings, subject, j), strict=True)
    leakage = figures.shades(findings.faithfulness.leakage, 1.0)
    yield "leakage", Picture(leakage, max(4, 320 // len(leakage)), exact=True)
    yield from _maps(findings)


def _edits(findings: Findings, j: int) -> Float[Tensor, "n v c h w"]:
    return as_floats(findings.faithfulness.pictures[j])


def _extremes(activations: Float[Tensor, " n"]) -> tuple[list[int], list[int]]:
    """Return the images in which a prototype is strongest, and those in which it is weakest; at most `FACES` in all."""
    order = activations.argsort(descending=True, stable=True).tolist()
    half = min(FACES, len(order)) // 2
    return order[: len(order) - half][: FACES - half], order[len(order) - half :]


def _looks(images: Image, places: Float[Tensor, "b h w"]) -> Float[Tensor, "b 2 3 h w"]:
    """Pair each image with a map of where a prototype looks; all maps share one scale, which begins at the median."""
    # Few patches see a corner, so that its mean varies most: quantiles keep it from setting the scale.
    low, high = np.nanquantile(places.numpy(), (0.5, 0.98))
    glow = figures.heat(images, places, float(low), float(high))
    return torch.stack([images.expand(-1, 3, -1, -1), glow], dim=1)


def _reconstructions(findings: Findings, real: Image) -> Iterator[tuple[str, Picture]]:
    made, n = findings.reconstruction, len(real)
    rows = {"original": real, "inverted": made.inverted[:n]}
    rows |= {f"random-{k}": made.random[k, :n] for k in range(len(made.random))}
    return ((f"rec-{name}", Picture.of(images[None], 96)) for name, images in rows.items())


def _turned_up(model: PatronusModule, findings: Findings, j: int) -> tuple[Picture, Picture]:
    """Draw the images in which a prototype shows best, unedited and turned up; and the patches that resemble it."""
    shown, field = findings.what, model.encoder.receptive_field
    found = as_boxes(shown.box[j])
    before, after = shown.before(j), shown.after(j)
    pairs = Picture.of(torch.stack([before, after]), 96, [found, found])
    small = shrink(after[None])[0]
    share = small.shape[-2] / after.shape[-2]
    tops, lefts = ([round(share * (field.offset + k * field.jump)) for k in at] for at in shown.patch[j].T.tolist())
    windows = figures.magnified(small, tops, lefts, max(1, round(share * field.size)))
    return pairs, Picture(windows, max(1, 96 // small.shape[-2]))


def _top(model: PatronusModule, findings: Findings, subject: Subject, j: int) -> tuple[Picture, Picture]:
    """Draw the images whose patches resemble a prototype most, with boxes, and those patches alone."""
    images, boxes = _top_images(findings, subject, j)
    columns = min(FACES, len(images))
    whole = images[: len(images) // columns * columns].reshape(-1, columns, *images.shape[1:])
    grid = [boxes[k : k + columns] for k in range(0, whole.shape[0] * columns, columns)]
    field, top = model.encoder.receptive_field, findings.top
    tops, lefts = ((field.offset + at[j, :FACES] * field.jump).tolist() for at in (top.row, top.col))
    patch = figures.crops(images[:FACES], tops, lefts, field.size)
    step = -(-field.size // 64)
    return Picture.of(whole, 96, grid), Picture(patch[::step, ::step], max(1, 60 // field.size))


def _top_images(findings: Findings, subject: Subject, j: int) -> tuple[Image, list[Box]]:
    rows = findings.top.index[j].tolist()
    images = torch.from_numpy(np.stack([subject.images[row] for row in rows]))
    return as_floats(images), as_boxes(findings.top.box[j])


def as_boxes(boxes: Int[Tensor, "n 4"]) -> list[Box]:
    """Return boxes (top, left, bottom, right) as plain numbers."""
    return [(top, left, bottom, right) for top, left, bottom, right in boxes.tolist()]


def _headline(findings: Findings) -> list[int]:
    return findings.by_legibility()[:HEADLINE]


def _maps(findings: Findings) -> Iterator[tuple[str, Picture]]:
    """Draw prototypes × timesteps in the colours of the charts: how much of an edit shows, and how much is decided."""
    rows = earliest_first(findings)
    maps = {"shows": -findings.emergence.map.clamp_min(0), "decides": findings.commitment.decided.clamp_min(0)}
    return ((f"map-{name}", Picture(_cells(values[rows]), 2, exact=True)) for name, values in maps.items())


def _cells(values: Float[Tensor, "rows columns"]) -> Pixels:
    return figures.shades(values, 1.0).repeat(CELL[0], axis=0).repeat(CELL[1], axis=1)


def earliest_first(findings: Findings) -> list[int]:
    """Return the prototypes by the timestep at which half of their effect is decided; those without an effect last."""
    times = findings.commitment.t50.nan_to_num(-1.0)
    return times.argsort(descending=True, stable=True).tolist()


# ---- charts ----------------------------------------------------------------------------------------------------------


def _histogram(findings: Findings, subject: Subject, j: int) -> dict[str, Any]:
    """Return SVG paths of a prototype's histogram, split by the attribute that it reads best; each part sums to 1."""
    s, a = findings.activations[:, j].numpy(), int(findings.reading.attribute[j])
    groups = {"all": np.ones(len(s), bool)}
    if a >= 0:
        groups = {"without": subject.attributes[:, a] == 0, "with": subject.attributes[:, a] == 1}
    edges = np.histogram_bin_edges(s, bins=32)
    shares = {name: np.histogram(s[rows], edges)[0] / max(rows.sum(), 1) for name, rows in groups.items()}
    highest = max(float(share.max()) for share in shares.values()) or 1.0
    paths = {name: steps_path((share / highest).tolist()) for name, share in shares.items()}
    return {"paths": paths, "low": float(edges[0]), "high": float(edges[-1])}


TOP = 0.8
"""The plateau lies at 4/5 of the height of a timeline."""


def _timeline(findings: Findings, j: int, images: int) -> dict[str, Any]:
    """Return SVG paths over the steps of sampling: what the picture shows and what is decided, or None."""
    curves, decided = findings.emergence, findings.commitment
    first, last = float(curves.t[0]), float(curves.t[-1])

    def along(t: Tensor) -> list[float]:
        return ((first - t) / max(first - last, 1.0)).tolist()

    paths: dict[str, Any] = {"shows": None, "decides": None}
    curve, share = curves.map[j], decided.decided[j]
    if bool(curve.isfinite().all()):
        error = curves.band[j] / curves.plateau[j] / images**0.5
        paths["shows"] = _ribbon(along(curves.t), curve, curve - error, curve + error)
        paths["shows"]["half"] = 100 * along(curves.t50[j : j + 1])[0]
    if bool(share.isfinite().all()):
        ends = torch.stack([decided.until[j], 1 - decided.after[j]])
        paths["decides"] = _ribbon(along(decided.t), share, ends.amin(0), ends.amax(0))
        paths["decides"]["half"] = 100 * along(decided.t50[j : j + 1])[0]
    return paths


def _ribbon(x: Sequence[float], middle: Tensor, low: Tensor, high: Tensor) -> dict[str, Any]:
    ends = [line_path(x, values.mul(TOP).tolist()) for values in (high, low)]
    back = " L".join(reversed(ends[1][1:].split(" L")))
    return {"line": line_path(x, middle.mul(TOP).tolist()), "band": f"{ends[0]} L{back} Z"}


def _most_moved(findings: Findings, j: int) -> list[tuple[int, float]]:
    row = findings.faithfulness.leakage[j].nan_to_num(0.0).clone()
    row[j] = -1.0
    values, indices = row.topk(min(OTHERS, len(row) - 1))
    return list(zip(indices.tolist(), values.tolist(), strict=True))


# ---- the page, and files beside it -----------------------------------------------------------------------------------


def render(model: PatronusModule, findings: Findings, subject: Subject, numbers: dict[str, Any]) -> str:
    """Return the page as HTML; every text from outside is escaped."""
    timed, candidates = (min(numbers["protocol"][name], len(subject.images)) for name in ("timed", "candidates"))
    return template("report/report.html").render(
        numbers=numbers,
        pictures=embed(partial(_pictures, model, findings, subject)),
        headline=_headline(findings),
        heads=min(HEADS, len(subject.images)),
        earliest=earliest_first(findings),
        charts={
            j: {
                "histogram": _histogram(findings, subject, j),
                "timeline": _timeline(findings, j, timed),
                "others": _most_moved(findings, j),
            }
            for j in range(model.prototypes.count)
        },
        image_shape=subject.images.shape[1:],
        receptive_field=model.receptive_field,
        random=len(findings.reconstruction.random),
        first_step=float(findings.emergence.t[0]),
        timed=timed,
        candidates=candidates,
    )


def draw_files(model: PatronusModule, findings: Findings, subject: Subject) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, bytes) of the same pictures as PNG files with labels, for slides and papers."""
    shape, made = findings.faithfulness.pictures.shape, findings.reconstruction
    real = subject.first(shape[1])
    rows, labels = [real], ["real"]
    for j in findings.by_legibility()[:5]:
        rows += _edits(findings, j)[:, [0, -1]].unbind(1)
        labels += [f"prototype {j} off", "on"]
    yield "headline.png", figures.image_grid(torch.stack(rows), labels)
    n = len(real)
    noises = ["inverted noise", *(f"random noise {k + 1}" for k in range(len(made.random)))]
    grid = torch.stack([real, made.inverted[:n], *made.random[:, :n]])
    yield "reconstructions.png", figures.image_grid(grid, ["original", *noises])
    yield "census.png", figures.census_picture(findings.census)
    leakage = findings.faithfulness.leakage
    yield "leakage.png", figures.matrix(leakage, "Leakage", "prototype moved", "prototype that follows", high=1.0)
    for name, t, values in (
        ("emergence", findings.emergence.t, findings.emergence.map),
        ("commitment", findings.commitment.t, findings.commitment.decided),
    ):
        span = float(t[0]), float(t[-1]), float(len(values)), 0.0
        yield f"{name}.png", figures.matrix(values, name.capitalize(), "prototype", "timestep", span, 1.0)
    levels = [f"{share:.0%}" for share in torch.linspace(0, 1, shape[2]).tolist()]
    for j in range(model.prototypes.count):
        images, boxes = _top_images(findings, subject, j)
        shown = findings.what
        pair, found = torch.stack([shown.before(j), shown.after(j)]), as_boxes(shown.box[j])
        yield f"prototype_{j:03d}_what.png", figures.image_grid(pair, ["as it is", "turned up"], boxes=[found, found])
        yield f"prototype_{j:03d}_patches.png", figures.image_grid(images[None], boxes=[boxes])
        yield f"prototype_{j:03d}_edits.png", figures.image_grid(_edits(findings, j), column_labels=levels)
