"""`explain`: one page that a newcomer understands, the pictures on it as files, and every number as JSON."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from patronus_pl.analysis.report.atlas import draw_files, render
from patronus_pl.analysis.report.find import find
from patronus_pl.analysis.report.findings import Effort, Findings
from patronus_pl.analysis.report.report_numbers import report_numbers
from patronus_pl.analysis.subject import Subject
from patronus_pl.errors import OutputError
from patronus_pl.modules import PatronusModule

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
        # On a full disk it may be the folder of temporary files, where pictures wait (see `spool`).
        remedy = "choose another folder, or TMPDIR on a disk with room"
        raise OutputError(f"cannot write the report to {out_dir!r} ({error}); {remedy}") from error
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
