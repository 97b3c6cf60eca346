"""How long one epoch takes: training images a second of each config's model here, times the images of its data set.

python benchmarks/epoch_time.py [--quick]

Random images of the config's shape, batch 8 (1 above 64 pixels), as `training.py` measures a step.
"""

from report import median_seconds, options, report
from steps import FAST, model_of, training_step

IMAGES = {  # training images of the official splits
    "quickstart": 20_000,
    "fashion_mnist": 55_000,
    "cifar10": 45_000,
    "ffhq": 56_000,
    "celeba": 162_770,
    "chexpert": 187_000,  # frontal views, patients kept for validation left out; approximate
}


def main() -> None:
    chosen = options(__doc__, "epoch_time")
    rows = []
    for name, count in IMAGES.items():
        model = model_of(name, base=8) if chosen.quick else model_of(name)
        batch = 8 if model.image_shape[1] <= 64 else 1  # one image of 224 pixels is work enough for two cores
        speed = batch / median_seconds(training_step(model, batch, FAST), 1 if chosen.quick else 5)
        hours = count / speed / 3600
        rows.append({"config": name, "images": count, "images_per_second": speed, "epoch_hours": hours})
    report(rows, chosen, precision=FAST.precision)


if __name__ == "__main__":
    main()
