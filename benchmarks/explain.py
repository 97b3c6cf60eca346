"""How `patronus explain` grows with the number of prototypes and of steps: time, and memory at its peak.

python benchmarks/explain.py [--size 64] [--quick]

Each row is a process of its own, with an untrained model of the quickstart's layout on planted faces. Time should grow
linearly in m, memory with neither m nor steps. Here a report is made once a row: it takes minutes.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time

import torch
from report import options, report
from steps import model_of

from patronus_pl.analysis.report.report import explain
from patronus_pl.analysis.subject import Subject
from patronus_pl.data import PlantedFaces
from patronus_pl.diffusion.sampling import Sampling


def one(m: int, steps: int, size: int, images: int, base: int) -> dict[str, float]:
    """Make a report."""
    data = PlantedFaces(image_size=size, batch_size=64, test_size=images)
    model = model_of("quickstart", size, m, base=base).eval().to(memory_format=torch.channels_last)
    subject = Subject.of(data, "test", images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        explain(model, subject, folder, sampling=Sampling(steps, batch_size=16))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "start_mb": before,
    }


def main() -> None:
    chosen = options(__doc__, "explain", size=64, images=256, one="")
    if chosen.one:
        print(json.dumps(one(*json.loads(chosen.one))))
        return
    size, images, base = (16, 16, 8) if chosen.quick else (chosen.size, chosen.images, 32)
    cases = [(2, 2), (4, 2), (4, 4)] if chosen.quick else [(12, 20), (25, 20), (50, 20), (100, 20), (25, 50)]
    rows = []
    for m, steps in cases:
        case = json.dumps([m, steps, size, images, base])
        done = subprocess.run([sys.executable, __file__, "--one", case], stdout=subprocess.PIPE, check=True, text=True)
        rows.append({"m": m, "steps": steps, **json.loads(done.stdout.splitlines()[-1])})
        rows[-1]["seconds_a_prototype"] = rows[-1]["seconds"] / m
    report(rows, chosen, goal="seconds linear in m, peak_mb flat")


if __name__ == "__main__":
    main()
