"""Draw every picture and chart of the report: for its page, and as PNG files beside it."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from patronus_pl.analysis.explain.recovery import FEWEST, timesteps_at
from patronus_pl.analysis.explain.where import locate, pixel_map
from patronus_pl.analysis.pages import charts, figures
from patronus_pl.analysis.pages.figures import Pixels
from patronus_pl.analysis.pages.page import Picture, embed, line_path, shrink, steps_path, template
from patronus_pl.analysis.report.findings import Findings
from patronus_pl.analysis.subject import Subject
from patronus_pl.diffusion import NoiseSource
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
ROW, WIDTH = 9, 180
"""Height of a row of the timing maps, and about their width, in half screen pixels."""
NOISED = 6
"""At how many noise levels an image is shown above the map of recovery."""


def shown_prototypes(findings: Findings, everything: bool = False) -> list[int]:
    """Return the prototypes that the page shows, the most legible first.

    Args:
        findings: what the report rests on.
        everything: whether dead and unused prototypes are shown too. They are if no other is left.
    """
    order = findings.by_legibility()
    kept = [j for j in order if findings.worth_keeping[j]]
    return order if everything or not kept else kept


# ---- pictures --------------------------------------------------------------------------------------------------------


def _pictures(
    model: PatronusModule, findings: Findings, subject: Subject, shown: Sequence[int]
) -> Iterator[tuple[str, Picture]]:
    """Yield every picture of the page with its name."""
    real, heads = subject.first(findings.faithfulness.pictures.shape[1]), heads_of(findings)
    yield "real", Picture.of(real[None, :heads], 96)
    yield from _reconstructions(findings, real)
    for j in shown[:HEADLINE]:
        yield f"switch-{j}", Picture.of(findings.edits(j)[:heads, [0, -1]].transpose(0, 1), 96)
    with torch.inference_mode():
        similar = model.similarity_map(real.to(model.device)).cpu()
    boxes = locate(model, real).box
    for j in shown:
        edits = findings.edits(j)
        strong, weak = _extremes(findings.activations[: len(edits), j])
        marked: list[Box | None] = [*as_boxes(boxes[strong, j]), *(None for _ in weak)]
        found = [[box, None] for box in marked]
        places = pixel_map(similar[:, j : j + 1], model.encoder.receptive_field, *real.shape[-2:])[:, 0]
        yield f"edit-{j}", Picture.of(edits[strong + weak], 64)
        yield f"where-{j}", Picture.of(_looks(real, places)[strong + weak], 64, found)
        yield from zip((f"what-{j}", f"grown-{j}"), _turned_up(model, findings, j), strict=True)
        yield from zip((f"top-{j}", f"crops-{j}"), _top(model, findings, subject, j), strict=True)
    leakage = figures.shades(findings.faithfulness.leakage, 1.0)
    yield "leakage", Picture(leakage, max(4, 320 // len(leakage)), exact=True)
    yield from _maps(model, findings, real[:1], shown)


def heads_of(findings: Findings) -> int:
    """Return how many images are shown at the top of the page: as many as there are edits of every prototype."""
    guided = HEADS if findings.guided is None else findings.guided.pictures.shape[1]
    return min(HEADS, findings.faithfulness.pictures.shape[1], guided)


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


def _maps(
    model: PatronusModule, findings: Findings, image: Image, shown: Sequence[int]
) -> Iterator[tuple[str, Picture]]:
    """Draw the timing maps: prototypes × noise levels, and prototypes × timesteps; and an image at some of the levels.

    Below the image with noise stands what the model that is told nothing takes for the clean image.
    """
    rows = earliest_first(findings, shown)
    yield "map-shows", Picture(_cells(-findings.emergence.map[rows].clamp_min(0)), 2, exact=True)
    if findings.recovery is None:
        return
    log_snr = findings.recovery.log_snr.numpy()
    even = np.linspace(log_snr[0], log_snr[-1], WIDTH)
    known = np.stack([np.interp(even, log_snr, curve) for curve in findings.recovery.known[rows].numpy()])
    yield "map-known", Picture(_cells(torch.from_numpy(known).float()), 2, exact=True)
    middles = torch.from_numpy(even[WIDTH // NOISED // 2 :: WIDTH // NOISED][:NOISED])
    t = timesteps_at(model.schedule, middles).round().long().to(model.device)
    x = image.to(model.device).expand(NOISED, -1, -1, -1)
    x_t = model.schedule.add_noise(x, NoiseSource(0, range(NOISED), model.device)(x.shape), t)
    nothing = torch.zeros(NOISED, model.prototypes.count, device=model.device)
    with torch.inference_mode():
        guess = model.denoiser_for(nothing, nothing.bool())(x_t, t)
    noisy = x_t / x_t.flatten(1).std(1)[:, None, None, None] / 2  # as loud as an image at every level
    yield "noised", Picture.of(torch.stack([noisy, guess]).clamp(-1, 1).cpu(), 64)


def _cells(values: Float[Tensor, "rows columns"]) -> Pixels:
    return figures.shades(values, 1.0).repeat(ROW, axis=0).repeat(max(1, WIDTH // values.shape[1]), axis=1)


def earliest_first(findings: Findings, shown: Sequence[int]) -> list[int]:
    """Return the shown prototypes, those first of which half is known, or shows, at the noisiest level.

    It goes by recovery where it was measured, and else by emergence; prototypes without a time come last.
    """
    when = -findings.emergence.t50 if findings.recovery is None else findings.recovery.passed[:, 1]
    return sorted(shown, key=lambda j: float(when[j].nan_to_num(torch.inf)))


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


def _timeline(findings: Findings, j: int, images: int) -> dict[str, Any] | None:
    """Return SVG paths of how much of an edit shows over the steps of sampling, or None where it never does."""
    curves = findings.emergence
    first, last = float(curves.t[0]), float(curves.t[-1])

    def along(t: Tensor) -> list[float]:
        return ((first - t) / max(first - last, 1.0)).tolist()

    curve = curves.map[j]
    if not bool(curve.isfinite().all()):
        return None
    error = curves.band[j] / curves.plateau[j] / images**0.5
    paths = _ribbon(along(curves.t), curve, curve - error, curve + error)
    return {**paths, "half": 100 * along(curves.t50[j : j + 1])[0]}


def _known(findings: Findings, j: int) -> dict[str, Any] | None:
    """Return the SVG path of how much of a prototype is known over log-SNR, and where half of it is, in percent."""
    found = findings.recovery
    if found is None:
        return None
    first, last = float(found.log_snr[0]), float(found.log_snr[-1])

    def along(log_snr: Tensor) -> list[float]:
        return ((log_snr - first) / (last - first)).tolist()

    ends = torch.stack([each[j, 1] for each in (found.low, found.passed, found.high)])
    half = None if bool(ends.isnan().any()) else [100 * x for x in along(ends)]
    return {"line": line_path(along(found.log_snr), found.known[j].tolist()), "half": half}


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


def render(
    model: PatronusModule, findings: Findings, subject: Subject, numbers: dict[str, Any], shown: Sequence[int]
) -> str:
    """Return the page as HTML; every text from outside is escaped.

    Args:
        model: the model.
        findings: what was measured.
        subject: the images.
        numbers: what report.json holds, see `report_numbers`.
        shown: the prototypes that have a card, in order.
    """
    timed, candidates = (min(numbers["protocol"][name], len(subject.images)) for name in ("timed", "candidates"))
    return template("report/report.html").render(
        numbers=numbers,
        pictures=embed(partial(_pictures, model, findings, subject, shown)),
        shown=shown,
        headline=shown[:HEADLINE],
        earliest=earliest_first(findings, shown),
        charts={
            j: {
                "histogram": _histogram(findings, subject, j),
                "timeline": _timeline(findings, j, timed),
                "known": _known(findings, j),
                "others": _most_moved(findings, j),
            }
            for j in shown
        },
        image_shape=subject.images.shape[1:],
        receptive_field=model.encoder.receptive_field.size,
        random=len(findings.reconstruction.random),
        first_step=float(findings.emergence.t[0]),
        timed=timed,
        masked=model.masks is not None,
        guided=findings.guided is not None,
        fewest=FEWEST,
        candidates=candidates,
    )


def draw_files(findings: Findings, subject: Subject, shown: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, bytes) of the same pictures as PNG files with labels, for slides and papers."""
    shape, made = findings.faithfulness.pictures.shape, findings.reconstruction
    heads = heads_of(findings)
    rows, labels = [subject.first(heads)], ["real"]
    for j in shown[:5]:
        rows += findings.edits(j)[:heads, [0, -1]].unbind(1)
        labels += [f"prototype {j} off", "on"]
    yield "headline.png", figures.image_grid(torch.stack(rows), labels)
    real = subject.first(shape[1])
    n = len(real)
    noises = ["inverted noise", *(f"random noise {k + 1}" for k in range(len(made.random)))]
    grid = torch.stack([real, made.inverted[:n], *made.random[:, :n]])
    yield "reconstructions.png", figures.image_grid(grid, ["original", *noises])
    yield "census.png", charts.census_picture(findings.census)
    leakage = findings.faithfulness.leakage
    yield "leakage.png", charts.matrix(leakage, "Leakage", "prototype moved", "prototype that follows", high=1.0)
    t = findings.emergence.t
    span = float(t[0]), float(t[-1]), float(len(leakage)), 0.0
    yield "emergence.png", charts.matrix(findings.emergence.map, "Emergence", "prototype", "timestep", span, 1.0)
    if findings.recovery is not None:
        yield "recovery.png", charts.recovery_map(findings.recovery, earliest_first(findings, shown))
    levels = [f"{share:.0%}" for share in torch.linspace(0, 1, shape[2]).tolist()]
    turned = findings.what
    for j in shown:
        images, boxes = _top_images(findings, subject, j)
        pair, found = torch.stack([turned.before(j), turned.after(j)]), as_boxes(turned.box[j])
        yield f"prototype_{j:03d}_what.png", figures.image_grid(pair, ["as it is", "turned up"], boxes=[found, found])
        yield f"prototype_{j:03d}_patches.png", figures.image_grid(images[None], boxes=[boxes])
        yield f"prototype_{j:03d}_edits.png", figures.image_grid(findings.edits(j), column_labels=levels)
