"""How fast `PlantedFaces` draws: images a second, one process.

python benchmarks/planted_faces.py [--quick]
"""

from itertools import count as counter

import numpy as np
from report import median_seconds, options, report

from patronus_pl.data.planted_faces import draw


def main() -> None:
    chosen = options(__doc__, "planted_faces")
    rows = []
    for size in (16, 32, 64, 128):
        count, turn = (64 if chosen.quick else 4096 * 32**2 // size**2), counter()

        def fresh(size: int = size, count: int = count, turn: counter = turn) -> None:
            draw(np.arange(count) + next(turn) * count, size=size)

        speed = count / median_seconds(fresh)
        rows.append({"size": size, "images_per_second": speed, "megapixels_per_second": speed * size**2 / 1e6})
    report(rows, chosen, goal="5000 images a second at 32")


if __name__ == "__main__":
    main()
