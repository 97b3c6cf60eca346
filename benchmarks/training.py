"""Training images a second: the paper's Fashion-MNIST model, plain and as patronus trains it.

python benchmarks/training.py [--batch 64] [--quick]

A step is forward, backward, clipping and AdamW on random images. Plain is fp32, contiguous, with PyTorch's AdamW loop;
patronus is channels_last, fused AdamW, and bfloat16 where it is the faster one (the table says which).
"""

from report import median_seconds, options, report
from steps import FAST, PLAIN, model_of, training_step


def main() -> None:
    chosen = options(__doc__, "training", batch=64)
    batch, base = (2, 8) if chosen.quick else (chosen.batch, 64)
    rows = []
    for way in (PLAIN, FAST):
        seconds = median_seconds(training_step(model_of("fashion_mnist", base=base), batch, way))
        rows.append({"way": way.name, "precision": way.precision, "batch": batch, "images_per_second": batch / seconds})
    report(rows, chosen, ratio=rows[1]["images_per_second"] / rows[0]["images_per_second"], goal=10.0)


if __name__ == "__main__":
    main()
