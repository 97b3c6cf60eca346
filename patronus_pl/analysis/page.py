"""The report's pictures and its one HTML file: raw pixels as data URIs that the browser magnifies, charts as SVG."""

import base64
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor
from torch.nn.functional import interpolate

from patronus_pl.analysis import figures
from patronus_pl.analysis.figures import Pixels
from patronus_pl.analysis.findings import Findings, Subject
from patronus_pl.analysis.where import locate, pixel_map
from patronus_pl.modules import PatronusModule
from patronus_pl.types import Box, Image

LIMIT = 3_300_000
"""Bytes of pictures before base64, which adds a third: the page stays below 5 MB."""
THUMBNAIL = 96
"""Larger images are shrunk to this side on the page."""
QUALITIES = (None, 90, 75, 50)
"""Lossless first; lossy only if the page would become too large."""
HEADLINE = 5
FACES = 4
"""Images on which a prototype's place and edits are shown, half of them with it and half without."""
OTHERS = 5
"""Most affected other prototypes that a card lists."""


# ---- pictures on the page --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """Pixels, how much the browser magnifies them, and boxes to lay over them.

    Attributes:
        pixels: RGBA.
        scale: screen pixels a pixel.
        boxes: (left, top, width, height) in percent of the picture.
        exact: each pixel is a number, and none may be left out.
    """

    pixels: Pixels
    scale: int
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    exact: bool = False

    @classmethod
    def of(
        cls,
        images: Float[Tensor, "rows columns c h w"],
        tile: int,
        boxes: Sequence[Sequence[Box | None]] | None = None,
    ) -> "Picture":
        """Images side by side, each about `tile` screen pixels high."""
        h, w = images.shape[-2:]
        small = shrink(images)
        pixels = figures.tiles(small)
        height, width = (side / (small.shape[-2] / h) for side in pixels.shape[:2])
        pitch = (small.shape[-2] + 1) / (small.shape[-2] / h), (small.shape[-1] + 1) / (small.shape[-1] / w)
        placed = [
            (
                (c * pitch[1] + box[1]) / width * 100,
                (r * pitch[0] + box[0]) / height * 100,
                (box[3] - box[1]) / width * 100,
                (box[2] - box[0]) / height * 100,
            )
            for r, row in enumerate(boxes or ())
            for c, box in enumerate(row)
            if box is not None
        ]
        return cls(pixels, max(1, tile // small.shape[-2]), tuple(placed))


def shrink(images: Float[Tensor, "rows columns c h w"]) -> Float[Tensor, "rows columns c h2 w2"]:
    """Images whose longer side is at most `THUMBNAIL`."""
    longest = max(images.shape[-2:])
    if longest <= THUMBNAIL:
        return images
    size = [max(1, side * THUMBNAIL // longest) for side in images.shape[-2:]]
    small = interpolate(images.flatten(0, 1), size=size, mode="bilinear", antialias=True)
    return small.reshape(*images.shape[:3], *size)


def embed(pictures: dict[str, Picture], limit: int = LIMIT) -> dict[str, dict[str, Any]]:
    """Pictures as data URIs with their size on the screen, all together at most `limit` bytes before base64.

    Lossless if that fits; otherwise WebP of falling quality, then fewer pixels.
    """
    thinner = [(QUALITIES[-1], every) for every in (2, 4, 8, 16)]
    for quality, every in [*((quality, 1) for quality in QUALITIES), *thinner]:
        data = _encoded(pictures, quality, every, limit)
        if len(data) == len(pictures):
            break
    else:
        data = _encoded(pictures, quality, every, sys.maxsize)  # thousands of prototypes: a large page beats none
    kind = "png" if quality is None else "webp"
    return {
        name: {
            "uri": f"data:image/{kind};base64,{base64.b64encode(data[name]).decode()}",
            "height": picture.pixels.shape[0] * picture.scale,
            "width": picture.pixels.shape[1] * picture.scale,
            "boxes": picture.boxes,
        }
        for name, picture in pictures.items()
    }


def _encoded(pictures: dict[str, Picture], quality: int | None, every: int, limit: int) -> dict[str, bytes]:
    """Pictures until the limit is passed: what will not fit need not be finished."""
    data: dict[str, bytes] = {}
    for name, picture in pictures.items():
        step = 1 if picture.exact else every
        encoded = figures.encode(picture.pixels[::step, ::step], quality)
        limit -= len(encoded)
        if limit < 0:
            break
        data[name] = encoded
    return data


@torch.inference_mode()
def _pictures(model: PatronusModule, findings: Findings, subject: Subject) -> dict[str, Picture]:
    """Every picture of the page by name."""
    moved = _edits(findings)
    real = subject.first(moved.shape[1])
    pictures = {"real": Picture.of(real[None], 96), **_reconstructions(findings, real)}
    for j in _headline(findings):
        pictures[f"switch-{j}"] = Picture.of(moved[j, :, [0, -1]].transpose(0, 1), 96)
    similar = model.similarity_map(real.to(model.device)).cpu()
    places = pixel_map(similar, model.encoder.receptive_field, *real.shape[-2:])
    boxes = locate(model, real).box
    for j in range(model.prototypes.count):
        strong, weak = _extremes(findings.activations[: len(real), j])
        marked: list[Box | None] = [*as_boxes(boxes[strong, j]), *(None for _ in weak)]
        found = [[box, None] for box in marked]
        pictures[f"edit-{j}"] = Picture.of(moved[j, strong + weak], 64)
        pictures[f"where-{j}"] = Picture.of(_looks(real, places[:, j])[strong + weak], 64, found)
        pictures[f"top-{j}"], pictures[f"crops-{j}"] = _top(model, findings, subject, j)
    leakage = figures.shades(findings.faithfulness.leakage, 1.0)
    return {**pictures, "leakage": Picture(leakage, max(4, 320 // len(leakage)), exact=True)}


def _edits(findings: Findings) -> Float[Tensor, "m n v c h w"]:
    return findings.faithfulness.pictures.float() / 127.5 - 1


def _extremes(activations: Float[Tensor, " n"]) -> tuple[list[int], list[int]]:
    """The images in which a prototype is strongest, and those in which it is weakest; at most `FACES`, each once."""
    order = activations.argsort(descending=True, stable=True).tolist()
    half = min(FACES, len(order)) // 2
    return order[: len(order) - half][: FACES - half], order[len(order) - half :]


def _looks(images: Image, places: Float[Tensor, "b h w"]) -> Float[Tensor, "b 2 3 h w"]:
    """Each image, and where a prototype looks in it: one scale for all of them, from the median on."""
    known = places[places.isfinite()]
    glow = figures.heat(images, places, float(known.median()), float(known.max()))
    return torch.stack([images.expand(-1, 3, -1, -1), glow], dim=1)


def _reconstructions(findings: Findings, real: Image) -> dict[str, Picture]:
    made, n = findings.reconstruction, len(real)
    rows = {"original": real, "inverted": made.inverted[:n]}
    rows |= {f"random-{k}": made.random[k, :n] for k in range(len(made.random))}
    return {f"rec-{name}": Picture.of(images[None], 96) for name, images in rows.items()}


def _top(model: PatronusModule, findings: Findings, subject: Subject, j: int) -> tuple[Picture, Picture]:
    """The images whose patches resemble a prototype most, with boxes; and those patches alone."""
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
    images = torch.from_numpy(np.stack([subject.images[row] for row in rows])).float() / 127.5 - 1
    return images, as_boxes(findings.top.box[j])


def as_boxes(boxes: Int[Tensor, "n 4"]) -> list[Box]:
    """(top, left, bottom, right) as plain numbers."""
    return [(top, left, bottom, right) for top, left, bottom, right in boxes.tolist()]


def _headline(findings: Findings) -> list[int]:
    return findings.by_legibility()[:HEADLINE]


# ---- charts on the page ----------------------------------------------------------------------------------------------


def steps_path(heights: Sequence[float], width: float = 100.0, height: float = 40.0) -> str:
    """Outline of a histogram as an SVG path; heights are in shares of the chart's."""
    pitch = width / len(heights)
    tops = " ".join(f"V{height * (1 - h):.2f} H{(k + 1) * pitch:.2f}" for k, h in enumerate(heights))
    return f"M0 {height} {tops} V{height} Z"


def line_path(x: Sequence[float], y: Sequence[float], width: float = 100.0, height: float = 40.0) -> str:
    """Points joined by lines as an SVG path; x and y are in shares of the chart, y from below."""
    points = (f"{width * a:.2f} {height * (1 - min(max(b, 0), 1)):.2f}" for a, b in zip(x, y, strict=True))
    return "M" + " L".join(points)


def _histogram(findings: Findings, subject: Subject, j: int) -> dict[str, Any]:
    """Paths of a prototype's histogram, split by the attribute that it reads best; each class sums to 1."""
    s, a = findings.activations[:, j].numpy(), int(findings.reading.attribute[j])
    groups = {"all": np.ones(len(s), bool)}
    if a >= 0:
        groups = {"without": subject.attributes[:, a] == 0, "with": subject.attributes[:, a] == 1}
    edges = np.histogram_bin_edges(s, bins=32)
    shares = {name: np.histogram(s[rows], edges)[0] / max(rows.sum(), 1) for name, rows in groups.items()}
    highest = max(float(share.max()) for share in shares.values()) or 1.0
    paths = {name: steps_path((share / highest).tolist()) for name, share in shares.items()}
    return {"paths": paths, "low": float(edges[0]), "high": float(edges[-1])}


def _timeline(findings: Findings, j: int, images: int) -> dict[str, Any] | None:
    """Path of a prototype's emergence curve over the course of sampling; None if it has no plateau."""
    timed = findings.emergence
    curve = timed.map[j]
    if not bool(curve.isfinite().all()):
        return None
    first, last = float(timed.t[0]), float(timed.t[-1])
    x = ((first - timed.t) / max(first - last, 1.0)).tolist()
    band = timed.band[j] / timed.plateau[j] / images**0.5
    ends = [line_path(x, (curve + sign * band).mul(0.8).tolist()) for sign in (1, -1)]
    back = " L".join(reversed(ends[1][1:].split(" L")))
    return {
        "line": line_path(x, curve.mul(0.8).tolist()),  # the plateau lies at 4/5 of the height
        "band": f"{ends[0]} L{back} Z",
        "half": 100 * (first - float(timed.t50[j])) / max(first - last, 1.0),
    }


def _most_moved(findings: Findings, j: int) -> list[tuple[int, float]]:
    row = findings.faithfulness.leakage[j].nan_to_num(0.0).clone()
    row[j] = -1.0
    values, indices = row.topk(min(OTHERS, len(row) - 1))
    return list(zip(indices.tolist(), values.tolist(), strict=True))


# ---- the page --------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    """A number for reading; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def spoken(attribute: str | None, sign: int = 1) -> str:
    """An attribute's name for reading."""
    return "" if attribute is None else ("not " if sign < 0 else "") + attribute.replace("_", " ")


def render(model: PatronusModule, findings: Findings, subject: Subject, numbers: dict[str, Any]) -> str:
    """The page; everything from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("patronus_pl", "analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    timed = min(numbers["protocol"]["timed"], len(subject.images))
    environment.filters |= {"n": number, "spoken": spoken}
    return environment.get_template("report.html").render(
        numbers=numbers,
        pictures=embed(_pictures(model, findings, subject)),
        headline=_headline(findings),
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
    )


# ---- files beside it -------------------------------------------------------------------------------------------------


@torch.inference_mode()
def draw_files(model: PatronusModule, findings: Findings, subject: Subject) -> Iterator[tuple[str, bytes]]:
    """The same pictures as PNG files with labels, for slides and papers: (name, bytes)."""
    moved = _edits(findings)
    real, made = subject.first(moved.shape[1]), findings.reconstruction
    rows, labels = [real], ["real"]
    for j in _headline(findings):
        rows += [moved[j, :, 0], moved[j, :, -1]]
        labels += [f"prototype {j} off", "on"]
    yield "headline.png", figures.image_grid(torch.stack(rows), labels)
    n = len(real)
    noises = ["inverted noise", *(f"random noise {k + 1}" for k in range(len(made.random)))]
    grid = torch.stack([real, made.inverted[:n], *made.random[:, :n]])
    yield "reconstructions.png", figures.image_grid(grid, ["original", *noises])
    leakage = findings.faithfulness.leakage
    yield "leakage.png", figures.matrix(leakage, "Leakage", "prototype moved", "prototype that follows", high=1.0)
    timed = findings.emergence
    span = float(timed.t[0]), float(timed.t[-1]), float(len(timed.map)), 0.0
    yield "emergence.png", figures.matrix(timed.map, "Emergence", "prototype", "timestep", span, 1.0)
    levels = [f"{share:.0%}" for share in torch.linspace(0, 1, moved.shape[2]).tolist()]
    for j in range(model.prototypes.count):
        images, boxes = _top_images(findings, subject, j)
        yield f"prototype_{j:03d}_patches.png", figures.image_grid(images[None], boxes=[boxes])
        yield f"prototype_{j:03d}_edits.png", figures.image_grid(moved[j], column_labels=levels)
