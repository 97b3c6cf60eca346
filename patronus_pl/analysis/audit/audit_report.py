"""audit.json and audit.html: every number of an audit, and one page that shows the worst ties."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patronus_pl.analysis.audit.audit import Audit, AuditEffort
from patronus_pl.analysis.audit.ties import Ties
from patronus_pl.analysis.pages.page import Picture, embed, steps_path, template
from patronus_pl.analysis.protocol import plain, versions
from patronus_pl.diffusion.sampling import Sampling
from patronus_pl.files import replacing
from patronus_pl.pixels import as_floats

SCHEMA_VERSION = 1
WORST = 6
"""Number of pairs that are shown with pictures."""
CONFUSED = 0.6
"""A judge takes one attribute for another if its AUROC, among images that agree on the other, is below this."""
UNEXPLAINED = ("amplified", "introduced")
TIED = (*UNEXPLAINED, "in the data")


# ---- numbers ---------------------------------------------------------------------------------------------------------


def audit_numbers(
    audit: Audit,
    effort: AuditEffort,
    sampling: Sampling,
    protocol: dict[str, Any],
    excluded: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return what audit.json holds; every number is finite or None.

    Args:
        audit: the findings.
        effort: what was moved and tested.
        sampling: how pictures were drawn.
        protocol: what else decides the findings: checkpoint, judge, data.
        excluded: attributes that were left out, and why.
    """
    options = {"images": audit.images, **asdict(effort), **asdict(sampling)}
    numbers = {
        "schema_version": SCHEMA_VERSION,
        "protocol": {**protocol, **options, "versions": versions()},
        "summary": _summary(audit),
        "attributes": [_attribute(audit, a) for a in range(len(audit.names))],
        "excluded": excluded or {},
        "moves": [_move(audit, p) for p in range(len(audit.moves.names))],
        "pairs": [
            _pair(audit, p, b)
            for p, row in enumerate(audit.ties.verdict)
            for b, verdict in enumerate(row)
            if verdict != "itself"
        ],
        "null": {"scale": audit.ties.null_scale, "ties": audit.null},
    }
    result: dict[str, Any] = plain(numbers)
    return result


def _summary(audit: Audit) -> dict[str, Any]:
    counts = Counter(verdict for row in audit.ties.verdict for verdict in row if verdict != "itself")
    return {
        "worst_unexplained": audit.ties.worst_unexplained(),
        "verdicts": dict(counts),
        "tested": int(audit.ties.tested.sum()),
        "leakage": leakage(audit.ties),
        "compensated_leakage": None if audit.compensated is None else leakage(audit.compensated),
        "images_needed": audit.images_needed,
    }


def leakage(ties: Ties) -> float:
    """Return the mean |tie| over the tested pairs."""
    return float(ties.tie.abs().where(ties.tested, torch.nan).nanmean())


def _attribute(audit: Audit, a: int) -> dict[str, Any]:
    quality, usable = audit.quality, audit.quality.usable
    confused = [
        name
        for b, name in enumerate(audit.names)
        if b != a and usable[a] and not audit.data.group[a, b] and not float(quality.apart[a, b]) >= CONFUSED
    ]
    return {
        "name": audit.names[a],
        "share": audit.data.share[a],
        "judged": bool(usable[a]),
        **{name: float(getattr(quality, name)[a]) for name in ("auroc", "auroc_low", "accuracy", "gain")},
        "not_told_from": confused,
    }


def _move(audit: Audit, p: int) -> dict[str, Any]:
    ties = audit.ties
    return {
        "name": audit.moves.names[p],
        "attribute": audit.names[int(ties.own[p])],
        "size": float(audit.moves.size[p]),
        "effect": float(ties.own_effect[p]),
        "interval": [float(ties.own_low[p]), float(ties.own_high[p])],
    }


def _pair(audit: Audit, p: int, b: int) -> dict[str, Any]:
    ties, data, own = audit.ties, audit.data, int(audit.ties.own[p])
    return {
        "move": audit.moves.names[p],
        "moved": audit.names[own],
        "attribute": audit.names[b],
        "verdict": ties.verdict[p][b],
        "tie": float(ties.tie[p, b]),
        "interval": [float(ties.low[p, b]), float(ties.high[p, b])],
        "p": float(ties.p_value[p, b]),
        "q": float(ties.q_value[p, b]),
        "phi": float(ties.phi[p, b]),
        "phi_interval": [float(data.low[own, b]), float(data.high[own, b])],
        "unexplained": float(ties.unexplained[p, b]),
        "twin": None if audit.twin is None else float(audit.twin[p, b]),
        "compensated": None if audit.compensated is None else float(audit.compensated.tie[p, b]),
    }


# ---- the page --------------------------------------------------------------------------------------------------------


def worst_pairs(numbers: dict[str, Any], count: int = WORST) -> list[dict[str, Any]]:
    """Return the ties to show: first those that the data do not explain, then the others, the strongest first."""
    tied = [pair for pair in numbers["pairs"] if pair["verdict"] in TIED]
    return sorted(tied, key=lambda pair: (pair["verdict"] not in UNEXPLAINED, -abs(pair["tie"])))[:count]


def render_audit(audit: Audit, numbers: dict[str, Any]) -> str:
    """Return the HTML page, in which everything from outside is escaped."""
    worst = worst_pairs(numbers)
    names = list(audit.moves.names)
    rows = [names.index(pair["move"]) for pair in worst]
    scores = audit.seen.scores[rows, : audit.seen.pictures.shape[1]]
    columns = [audit.names.index(pair["attribute"]) for pair in worst]
    shown = audit.seen.pictures.transpose(1, 2)  # the low end in the upper row, the high end below
    return template("audit/audit.html").render(
        numbers=numbers,
        table={(pair["move"], pair["attribute"]): pair for pair in numbers["pairs"]},
        worst=worst,
        scores=[scores[k, :, :, b].T.tolist() for k, b in enumerate(columns)],
        pictures=embed(lambda: ((f"pair-{k}", Picture.of(as_floats(shown[p]), 64)) for k, p in enumerate(rows))),
        null=_histogram(audit),
        tied=TIED,
        unexplained=UNEXPLAINED,
    )


def _histogram(audit: Audit) -> dict[str, Any]:
    """Return SVG paths of the histograms of |tie| of random moves and of the tested pairs, each of which sums to 1."""
    groups = {
        "without": audit.null[:, audit.quality.usable].flatten(),
        "with": audit.ties.tie[audit.ties.tested],
    }
    values = {name: _absolute(ties) for name, ties in groups.items()}
    high = max([1e-6, *(float(v.max()) for v in values.values() if len(v))])
    edges = np.linspace(0, high, 33)
    shares = {name: np.histogram(v, edges)[0] / max(len(v), 1) for name, v in values.items()}
    top = max(float(share.max()) for share in shares.values()) or 1.0
    return {"paths": {name: steps_path((share / top).tolist()) for name, share in shares.items()}, "high": high}


def _absolute(ties: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    known: np.ndarray[Any, np.dtype[np.float32]] = ties[ties.isfinite()].abs().numpy()
    return known


# ---- files -----------------------------------------------------------------------------------------------------------


def write_audit(audit: Audit, numbers: dict[str, Any], out_dir: str) -> None:
    """Write audit.json and audit.html, each whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    texts = {
        "audit.json": json.dumps(numbers, indent=1, allow_nan=False) + "\n",
        "audit.html": render_audit(audit, numbers),
    }
    for name, text in texts.items():
        with replacing(Path(out_dir) / name, "choose another folder") as file:
            file.write(text.encode())


def told(numbers: dict[str, Any], names: Sequence[str] = UNEXPLAINED) -> list[str]:
    """Return one line for each tie with one of these verdicts, the strongest first."""
    found = [pair for pair in numbers["pairs"] if pair["verdict"] in names]
    return [
        f"{pair['move']} -> {pair['attribute']}: tie {pair['tie']:+.2f} "
        f"[{pair['interval'][0]:+.2f}, {pair['interval'][1]:+.2f}], phi {pair['phi']:+.2f}, {pair['verdict']}"
        for pair in sorted(found, key=lambda pair: -abs(pair["tie"]))
    ]
