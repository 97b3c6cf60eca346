"""A small classifier of Fashion-MNIST, whose features the Fréchet distances on it are measured with.

python benchmarks/fashion_features.py                    about ten minutes on one core; prints its accuracy
patronus test ... --evaluation.features.class_path patronus_pl.metrics.ClassifierFeatures \\
    --evaluation.features.init_args.path benchmarks/results/fashion_features.pt
"""

from pathlib import Path

import torch
from report import RESULTS, options, report

from patronus_pl.analysis.judges import train_judge
from patronus_pl.data import FashionMNIST
from patronus_pl.metrics import network_hash


def main() -> None:
    chosen = options(__doc__, "fashion_features", root="", epochs=6, weights=str(RESULTS / "fashion_features.pt"))
    data = FashionMNIST(**({"root": chosen.root} if chosen.root else {}))
    data.prepare_data()
    train, test = data.table("train"), data.table("test")
    n = 2000 if chosen.quick else len(train)
    classifier = train_judge(torch.from_numpy(train.images[:n]), torch.from_numpy(train.attributes[:n]), chosen.epochs)
    scores = torch.cat([classifier(torch.from_numpy(x) / 127.5 - 1) for x in batches(test.images)])
    right = scores.argmax(1) == torch.from_numpy(test.attributes).argmax(1)
    Path(chosen.weights).parent.mkdir(parents=True, exist_ok=True)
    torch.save(classifier.state_dict(), chosen.weights)
    row = {"training images": n, "epochs": chosen.epochs, "accuracy": float(right.float().mean())}
    report([{**row, "weights": network_hash(classifier)}], chosen)


def batches(images):
    return (images[i : i + 500] for i in range(0, len(images), 500))


if __name__ == "__main__":
    main()
