"""What every benchmark shares: its options, its clock, and a table and JSON that say where they were measured.

No benchmark itself: `make bench` runs the others.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from patronus_pl.hardware import best_precision

RESULTS = Path(__file__).parent / "results"
RUNS = 5
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")


def options(description: str | None, name: str, **defaults: Any) -> argparse.Namespace:
    """`--quick`, `--out` and an option for each default, of its type."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a trial of the script in seconds: its numbers say nothing"
    )
    parser.add_argument("--out", type=Path, help=f"default {RESULTS.name}/{name}.json; with --quick none")
    for option, default in defaults.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=type(default), default=default, help="%(default)s")
    chosen = parser.parse_args()
    if chosen.out is None and not chosen.quick:
        chosen.out = RESULTS / f"{name}.json"
    return chosen


def median_seconds(function: Callable[[], Any], runs: int = RUNS, warm_up: int = 1) -> float:
    """Median over some runs, after others that do not count."""
    seconds = []
    for _ in range(warm_up + runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warm_up:])


def machine() -> dict[str, Any]:
    """The processor, what it computes fast, and the versions that matter."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    except OSError:
        fields = {}
    flags = fields.get("flags", "").split()
    return {
        "processor": fields.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": [flag for flag in FLAGS if flag in flags],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "precision": best_precision(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "lightning", "numpy", "scikit-learn")},
        "date": date.today().isoformat(),
    }


def report(rows: Sequence[dict[str, Any]], chosen: argparse.Namespace, **more: Any) -> None:
    """Print rows as a table, and write them with the machine and all options."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([_text(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    for name, value in more.items():
        print(f"{name.replace('_', ' ')}: {_text(value)}")
    here = machine()
    print(f"{here['processor']}, {here['threads']} threads, {here['precision']}, torch {here['torch']}\n", flush=True)
    if chosen.out is not None:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()}
        record = {"machine": here, "options": settings, "runs": RUNS, "rows": list(rows), **more}
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
