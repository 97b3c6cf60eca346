"""How fast `PlantedFaces` draws: images a second, one process. Prints a table and writes JSON.

python benchmarks/planted_faces.py [--out planted_faces.json]
"""

import argparse
import json
from pathlib import Path
from time import perf_counter

import numpy as np

from patronus_pl.data.planted_faces import draw


def images_per_second(size: int, count: int, repeats: int = 3) -> float:
    draw(np.arange(64), size=size)
    seconds = []
    for repeat in range(repeats):
        start = perf_counter()
        draw(np.arange(repeat * count, (repeat + 1) * count), size=size)
        seconds.append(perf_counter() - start)
    return count / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="planted_faces.json", help="where the numbers go")
    out = Path(parser.parse_args().out)
    speed = {size: images_per_second(size, 4096 * 32**2 // size**2) for size in (16, 32, 64, 128)}
    print("size  images/s  MPixel/s")
    for size, rate in speed.items():
        print(f"{size:4d}  {rate:8.0f}  {rate * size**2 / 1e6:8.1f}")
    out.write_text(json.dumps({"images_per_second": speed}, indent=2) + "\n")


if __name__ == "__main__":
    main()
