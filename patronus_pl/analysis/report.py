"""`explain`: one page that a newcomer understands, the pictures on it as files, and every number as JSON."""

import json
import math
import os
import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patronus_pl.analysis.findings import Effort, Findings, Subject, find
from patronus_pl.analysis.page import draw_files, render
from patronus_pl.errors import OutputError
from patronus_pl.modules import PatronusModule

SCHEMA_VERSION = 1
PICTURES = "report_images"
"""Folder of the PNG files beside the page; it belongs to the report and is replaced as a whole."""


def explain(
    model: PatronusModule, subject: Subject, out_dir: str, checkpoint: str = "", effort: Effort | None = None
) -> dict[str, Any]:
    """Write report.html (one file, works offline), report.json and a folder of PNG files.

    Everything is written aside and moved into place at the end: an interrupted run leaves no half report.

    Args:
        model: a trained model, with the ranges of its prototypes.
        subject: images and what is known of them.
        out_dir: folder for the report; made if missing, and what else it holds stays.
        checkpoint: where the model comes from; its file name is noted.
        effort: how much to measure; None takes the defaults.

    Returns:
        What report.json holds.

    Raises:
        OutputError: the folder cannot be written; known before anything is measured.
        InvalidOptionError: fewer than two images.
    """
    effort = effort or Effort()
    try:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=out_dir) as aside:
            findings = find(model, subject, effort)
            numbers = report_numbers(model, findings, subject, effort, checkpoint)
            _write(Path(aside), model, findings, subject, numbers)
            _move(Path(aside), Path(out_dir))
    except OSError as error:
        raise OutputError(f"cannot write the report to {out_dir!r} ({error}); choose another folder") from error
    return numbers


def _write(folder: Path, model: PatronusModule, findings: Findings, subject: Subject, numbers: dict[str, Any]) -> None:
    (folder / PICTURES).mkdir()
    for name, png in draw_files(model, findings, subject):
        (folder / PICTURES / name).write_bytes(png)
    text = json.dumps(numbers, indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.html").write_text(render(model, findings, subject, numbers), encoding="utf-8")


def _move(aside: Path, out: Path) -> None:
    shutil.rmtree(out / PICTURES, ignore_errors=True)
    for name in (PICTURES, "report.json", "report.html"):  # the page last: it is there only if all is
        os.replace(aside / name, out / name)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def finite(value: Any) -> Any:
    """The same as plain values that JSON knows: tensors become lists, NaN and infinities None."""
    if isinstance(value, Tensor):
        return finite(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return value


def report_numbers(
    model: PatronusModule, findings: Findings, subject: Subject, effort: Effort, checkpoint: str
) -> dict[str, Any]:
    """All numbers of the report; each finite or None."""
    numbers = {
        "schema_version": SCHEMA_VERSION,
        "protocol": _protocol(subject, effort, checkpoint),
        "overview": _overview(findings),
        "attributes": [_attribute(findings, subject, a) for a in range(len(subject.attribute_names))],
        "prototypes": [_prototype(model, findings, j) for j in range(model.prototypes.count)],
        "order": findings.by_legibility(),
    }
    result: dict[str, Any] = finite(numbers)
    return result


def _protocol(subject: Subject, effort: Effort, checkpoint: str) -> dict[str, Any]:
    packages = {name: version(name) for name in ("patronus-pl", "torch", "numpy")}
    return {
        "checkpoint": Path(checkpoint).name,
        "data": subject.description,
        "images": len(subject.images),
        **vars(effort),
        "versions": {**packages, "python": platform.python_version()},
    }


def _overview(findings: Findings) -> dict[str, Any]:
    use, moved, timed = findings.use, findings.faithfulness, findings.emergence
    gap = findings.reading.gap
    return {
        **findings.census.summary(),
        "consistency": findings.consistency.overall,
        "consistency_interval": [findings.consistency.overall_low, findings.consistency.overall_high],
        "use": [
            {"t": t, "own": own, "other": other, "ratio": ratio}
            for t, own, other, ratio in zip(*_lists(use.t, use.own, use.other, use.ratio), strict=True)
        ],
        "reconstruction": {**findings.reconstruction.summary(), "mse_mean_image": findings.mean_image_error},
        "faithfulness": moved.summary(findings.census.live),
        "probe_auroc": _mean(findings.probe),
        "single_auroc": _mean(findings.reading.prototype_auroc),
        "single_gap": _mean(gap),
        "pointing": _mean(torch.tensor([game.hit_rate for game in findings.pointing])),
        "timed": int((~timed.t50.isnan()).sum()),
    }


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
    }


def _prototype(model: PatronusModule, findings: Findings, j: int) -> dict[str, Any]:
    census, moved, timed, top = findings.census, findings.faithfulness, findings.emergence, findings.top
    reads = int(findings.reading.attribute[j])
    return {
        "index": j,
        "range": [float(model.activation_low[j]), float(model.activation_high[j])],
        "std": float(census.std[j]),
        "dead": bool(census.dead[j]),
        "global": bool(census.is_global[j]),
        "spread": float(census.spread[j]),
        "duplicates": [k if i == j else i for i, k in census.duplicates if j in (i, k)],
        "neighbour": int(census.neighbour[j]),
        "neighbour_cosine": float(census.neighbour_cosine[j]),
        "consistency": float(findings.consistency.gain[j]),
        "attribute": findings.reading.names[reads] if reads >= 0 else None,
        "attribute_sign": int(findings.reading.attribute_sign[j]),
        "attribute_auroc": float(findings.reading.attribute_auroc[j]),
        "legibility": float(findings.legibility[j]),
        **{name: float(getattr(moved, name)[j]) for name in ONE_EACH},
        "requested": moved.requested[j],
        "realised": moved.realised[j],
        "leakage": moved.leakage[j],
        "emergence": {name: getattr(timed, name)[j] for name in ("t10", "t50", "t90", "curve", "band")},
        "top": [
            {"id": top.id[j][k], "activation": top.activation[j, k], "box": top.box[j, k]}
            for k in range(top.index.shape[1])
        ],
    }


ONE_EACH = ("slope", "rank_correlation", "leakage_mean", "leakage_median", "inside_box", "box_share")
"""Numbers of the faithfulness card, one a prototype."""
