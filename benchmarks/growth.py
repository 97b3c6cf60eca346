"""How the time of a training step grows: with prototypes m, image size, feature length D and batch.

python benchmarks/growth.py [--quick]                 also draws results/growth.png

The paper's Fashion-MNIST model, of which one number at a time is changed.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from report import median_seconds, options, report
from steps import FAST, model_of, training_step

AXES: dict[str, tuple[int, ...]] = {
    "m": (10, 30, 100, 300, 1000),
    "size": (32, 48, 64),
    "D": (32, 64, 128, 256, 512),
    "batch": (4, 8, 16, 32, 64),
}
GOALS = {"m": "10 → 1000: at most 1.3", "size": "32 → 64: at most 4.4"}


def seconds(batch: int, base: int, m: int = 30, size: int = 32, D: int = 128) -> float:
    return median_seconds(training_step(model_of("fashion_mnist", size, m, D, base=base), batch, FAST))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel an axis, both scales logarithmic: a straight line of slope 1 is linear growth."""
    figure, panels = plt.subplots(1, len(AXES), figsize=(12, 3), layout="constrained")
    for panel, name in zip(panels, AXES, strict=True):
        mine = [row for row in rows if row["axis"] == name]
        panel.loglog([row["value"] for row in mine], [row["seconds"] for row in mine], "o-")
        panel.set(xlabel=name, ylabel="seconds a step" if name == "m" else None)
        panel.set_xticks([row["value"] for row in mine], [str(row["value"]) for row in mine])
        panel.minorticks_off()
    figure.savefig(path, dpi=150)


def main() -> None:
    chosen = options(__doc__, "growth", batch=16)
    batch, base = (2, 8) if chosen.quick else (chosen.batch, 64)
    rows: list[dict[str, Any]] = []
    for axis, values in AXES.items():
        first = None
        for value in values[:2] if chosen.quick else values:
            took = seconds(**{"batch": batch, "base": base, axis: value})
            first = first or took
            rows.append({"axis": axis, "value": value, "seconds": took, "times_the_first": took / first})
    report(rows, chosen, precision=FAST.precision, goals=GOALS)
    if chosen.out is not None:
        draw(rows, chosen.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
