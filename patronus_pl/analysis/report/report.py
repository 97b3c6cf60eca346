"""`explain`: write a page that a newcomer understands, the pictures on it as files, and every number as JSON."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patronus_pl.analysis.editing.inverting import PSNR_FLOOR
from patronus_pl.analysis.explain.recovery import timesteps_at
from patronus_pl.analysis.explain.when import order
from patronus_pl.analysis.protocol import plain, versions
from patronus_pl.analysis.report.atlas import draw_files, render, shown_prototypes
from patronus_pl.analysis.report.findings import Effort, Findings, find
from patronus_pl.analysis.subject import Subject
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.errors import OutputError
from patronus_pl.modules import PatronusModule

PICTURES = "report_images"
"""Folder of the PNG files beside the page; it belongs to the report and is replaced as a whole."""
SCHEMA_VERSION = 2
"""Version of the layout of report.json."""


def explain(
    model: PatronusModule,
    subject: Subject,
    out_dir: str,
    checkpoint: str = "",
    effort: Effort = Effort(),  # noqa: B008  (frozen)
    sampling: Sampling = Sampling(),
    everything: bool = False,
) -> dict[str, Any]:
    """Write report.html (one file, works offline), report.json and a folder of PNG files.

    The report is written to a temporary folder inside `out_dir` and moved into place at the end, so that an interrupted
    run leaves the last report as it was.

    Args:
        model: a trained model, with the ranges of its prototypes.
        subject: images and what is known of them.
        out_dir: folder for the report. It is made if it is missing; other files in it stay.
        checkpoint: where the model comes from; its file name is noted in the report.
        effort: how much to measure.
        sampling: how images are inverted and drawn; its seed is that of all noise and resampling.
        everything: whether prototypes that are dead or unused are shown as well.

    Returns:
        What report.json holds.

    Raises:
        OutputError: the folder cannot be written. This is found out before anything is measured.
        InvalidOptionError: fewer than two images.
    """
    try:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=out_dir) as aside:
            findings = find(model, subject, effort, sampling)
            numbers = report_numbers(model, findings, subject, effort, sampling, checkpoint)
            shown = shown_prototypes(findings, everything)
            _write(Path(aside), model, findings, subject, numbers, shown)
            _move(Path(aside), Path(out_dir))
    except OSError as error:
        # The disk that is full may be that of temporary files, where pictures wait (see `DiskArray`).
        remedy = "choose another folder, or TMPDIR on a disk with room"
        raise OutputError(f"cannot write the report to {out_dir!r} ({error}); {remedy}") from error
    return numbers


def _write(
    folder: Path,
    model: PatronusModule,
    findings: Findings,
    subject: Subject,
    numbers: dict[str, Any],
    shown: Sequence[int],
) -> None:
    (folder / PICTURES).mkdir()
    for name, png in draw_files(findings, subject, shown):
        (folder / PICTURES / name).write_bytes(png)
    text = json.dumps(numbers, indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.html").write_text(render(model, findings, subject, numbers, shown), encoding="utf-8")


def _move(aside: Path, out: Path) -> None:
    shutil.rmtree(out / PICTURES, ignore_errors=True)
    for name in (PICTURES, "report.json", "report.html"):  # the page last: it is there only if all is
        os.replace(aside / name, out / name)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def report_numbers(
    model: PatronusModule, findings: Findings, subject: Subject, effort: Effort, sampling: Sampling, checkpoint: str
) -> dict[str, Any]:
    """Return every number of the report as plain values that JSON knows: what report.json holds.

    A number that is not finite becomes None.
    """
    numbers = {
        "schema_version": SCHEMA_VERSION,
        "protocol": _protocol(subject, effort, sampling, checkpoint),
        "overview": _overview(model, findings, subject, sampling.seed),
        "attributes": [_attribute(findings, subject, a) for a in range(len(subject.attribute_names))],
        "prototypes": [_prototype(model, findings, subject, j) for j in range(model.prototypes.count)],
        "order": findings.by_legibility(),
    }
    result: dict[str, Any] = plain(numbers)
    return result


def _protocol(subject: Subject, effort: Effort, sampling: Sampling, checkpoint: str) -> dict[str, Any]:
    return {
        "checkpoint": Path(checkpoint).name,
        "data": subject.description,
        "images": len(subject.images),
        **vars(effort),
        **vars(sampling),
        "versions": versions(),
    }


def _overview(model: PatronusModule, findings: Findings, subject: Subject, seed: int) -> dict[str, Any]:
    use, moved, found = findings.use, findings.faithfulness, findings.census
    games = findings.pointing
    return {
        **found.summary(),
        "dead_prototypes": _where(found.dead),
        "duplicate_pairs": found.duplicates,
        "global_prototypes": _where(found.is_global),
        "unused_prototypes": _where(moved.unused),
        "worth_keeping": int(findings.worth_keeping.sum()),
        "consistency": findings.consistency.overall,
        "consistency_interval": [findings.consistency.overall_low, findings.consistency.overall_high],
        "use": [
            {"t": t, "own": own, "other": other, "ratio": ratio}
            for t, own, other, ratio in zip(*_lists(use.t, use.own, use.other, use.ratio), strict=True)
        ],
        "reconstruction": {**findings.reconstruction.summary(), "mse_mean_image": findings.mean_image_error},
        "faithfulness": {
            **moved.summary(found.live),
            "guided": _all_guided(findings),
            "psnr_floor": PSNR_FLOOR,
            "flagged_ids": [subject.ids[k] for k in _where(moved.flagged)],
        },
        "untrained": {**findings.untrained.summary(), "prototypes": len(findings.untrained.prototypes)},
        "probe_auroc": _mean(findings.probe),
        "single_auroc": _mean(findings.reading.prototype_auroc),
        "single_gap": _mean(findings.reading.gap),
        "pointing": _mean(torch.tensor([game.hit_rate for game in games])),
        "pointing_base_rate": _mean(torch.tensor([game.base_rate for game in games])),
        "when": _recovery(model, findings, seed),
        "emergence": {
            "t": findings.emergence.t,
            "timed": int((~findings.emergence.t50.isnan()).sum()),
            "coarse_before_fine": _coarse_before_fine(findings, findings.emergence.t50, seed),
        },
    }


def _recovery(model: PatronusModule, findings: Findings, seed: int) -> dict[str, Any] | None:
    """Say at which noise levels prototypes were read, and whether large edits are decided before small ones."""
    found = findings.recovery
    if found is None:
        return None
    t50 = timesteps_at(model.schedule, found.passed[:, 1])
    return {
        "t": found.t,
        "log_snr": found.log_snr,
        "coarse_before_fine": _coarse_before_fine(findings, t50, seed),
    }


def _coarse_before_fine(findings: Findings, t50: Float[Tensor, " m"], seed: int) -> dict[str, Any]:
    """Return Kendall's τ of t50 with the visible size of edits, over the prototypes that are worth keeping."""
    return vars(order(t50.where(findings.worth_keeping, torch.nan), findings.faithfulness.size, seed))


def _all_guided(findings: Findings) -> dict[str, float]:
    """Return medians of slope, leakage and weight over the live prototypes, each under guidance where that is needed.

    They are those without guidance where no prototype needs any.
    """
    slope, leakage = findings.faithfulness.slope.clone(), findings.faithfulness.leakage_mean.clone()
    if findings.guided is not None:
        which = findings.guided.prototypes
        slope[which], leakage[which] = findings.guided.slope, findings.guided.leakage_mean
    live = findings.census.live
    values = {"slope": slope, "leakage_mean": leakage, "weight": findings.guidance}
    return {name: float(each[live].nanquantile(0.5)) for name, each in values.items()}


def _where(flags: Tensor) -> list[int]:
    return [int(k) for k in torch.nonzero(flags)[:, 0]]


def _mean(values: Tensor) -> float:
    return float(values.nanmean())


def _lists(*tensors: Tensor) -> list[list[Any]]:
    return [tensor.tolist() for tensor in tensors]


def _attribute(findings: Findings, subject: Subject, a: int) -> dict[str, Any]:
    reading = findings.reading
    column = torch.from_numpy(subject.attributes[:, a])
    return {
        "name": reading.names[a],
        "kind": subject.attribute_kind[a] if len(subject.attribute_kind) else "unknown",
        "share": _mean(column),
        "probe_auroc": float(findings.probe[a]),
        "prototype": int(reading.prototype[a]),
        "sign": int(reading.prototype_sign[a]),
        "auroc": float(reading.prototype_auroc[a]),
        "next_auroc": float(reading.runner_up_auroc[a]),
        "gap": float(reading.gap[a]),
        "pointing": vars(findings.pointing[a]) if findings.pointing else None,
        "seeing": vars(findings.seeing[a]) if findings.seeing else None,
    }


def _prototype(model: PatronusModule, findings: Findings, subject: Subject, j: int) -> dict[str, Any]:
    census, moved, same = findings.census, findings.faithfulness, findings.consistency
    reading, reads = findings.reading, int(findings.reading.attribute[j])
    return {
        "index": j,
        "range": [float(model.activation_low[j]), float(model.activation_high[j])],
        "std": float(census.std[j]),
        "dead": bool(census.dead[j]),
        "global": bool(census.is_global[j]),
        "unused": bool(moved.unused[j]),
        "spread": float(census.spread[j]),
        "duplicates": [k if i == j else i for i, k in census.duplicates if j in (i, k)],
        "neighbour": int(census.neighbour[j]),
        "neighbour_cosine": float(census.neighbour_cosine[j]),
        "consistency": float(same.gain[j]),
        "consistency_interval": [float(same.low[j]), float(same.high[j])],
        "attribute": reading.names[reads] if reads >= 0 else None,
        "attribute_sign": int(reading.attribute_sign[j]),
        "attribute_auroc": float(reading.attribute_auroc[j]),
        "legibility": float(findings.legibility[j]),
        "worth_keeping": bool(findings.worth_keeping[j]),
        **{name: float(getattr(moved, name)[j]) for name in ONE_EACH},
        "guidance": float(findings.guidance[j]),
        "guided": _guided(findings, j),
        "requested": moved.requested[j],
        "realised": moved.realised[j],
        "leakage": moved.leakage[j],
        "when": _when(model, findings, j),
        "emergence": {name: getattr(findings.emergence, name)[j] for name in CURVE},
        "what": _turned_up(findings, subject, j),
        "top": [
            {"id": findings.top.id[j][k], "activation": findings.top.activation[j, k], "box": findings.top.box[j, k]}
            for k in range(findings.top.index.shape[1])
        ],
    }


ONE_EACH = ("slope", "rank_correlation", "leakage_mean", "leakage_median", "inside_box", "box_share", "size")
"""Numbers of the faithfulness card, one a prototype."""
CURVE = ("t10", "t50", "t90", "curve", "band")
TIMES = ("t10", "t50", "t90")


def _guided(findings: Findings, j: int) -> dict[str, float] | None:
    """Return slope and leakage of a prototype's edits under its guidance weight; None where none is needed."""
    found = findings.guided
    if found is None or j not in found.prototypes:
        return None
    k = found.prototypes.tolist().index(j)
    return {"slope": float(found.slope[k]), "leakage_mean": float(found.leakage_mean[k])}


def _when(model: PatronusModule, findings: Findings, j: int) -> dict[str, Any] | None:
    """Return when a prototype is decided, in log-SNR and in timesteps, with intervals; None if it is not known."""
    found = findings.recovery
    if found is None:
        return None
    passed, low, high = found.passed[j], found.low[j], found.high[j]
    t = [timesteps_at(model.schedule, each) for each in (passed, high, low)]  # more signal is an earlier timestep
    return {
        "log_snr": {**dict(zip(TIMES, passed, strict=True)), "low": low, "high": high},
        "t": {**dict(zip(TIMES, t[0], strict=True)), "low": t[1], "high": t[2]},
        "curve": found.known[j],
        "redundancy": found.redundant[j],
    }


def _turned_up(findings: Findings, subject: Subject, j: int) -> list[dict[str, Any]]:
    shown = findings.what
    return [
        {
            "id": subject.ids[int(image)],
            "requested": shown.requested[j],
            "before": shown.activation_before[j, k],
            "activation": shown.activation[j, k],
            "box": shown.box[j, k],
        }
        for k, image in enumerate(shown.image[j])
    ]
