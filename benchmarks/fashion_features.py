"""A small classifier of Fashion-MNIST, whose features the Fréchet distances on it are measured with.

python benchmarks/fashion_features.py                    about ten minutes on one core; prints its accuracy
patronus test ... --evaluation.features.class_path patronus_pl.metrics.ClassifierFeatures \\
    --evaluation.features.init_args.path benchmarks/results/fashion_features.pt
"""

from pathlib import Path

import torch
from report import RESULTS, options, report

from patronus_pl.analysis.attributes.judges import judged, train_judge
from patronus_pl.data import FashionMNIST
from patronus_pl.metrics import network_hash


def main() -> None:
    chosen = options(__doc__, "fashion_features", root="", epochs=6, weights=str(RESULTS / "fashion_features.pt"))
    data = FashionMNIST(root=chosen.root or None)
    data.prepare_data()
    train, test = data.table("train"), data.table("test")
    n = 2000 if chosen.quick else len(train)
    classifier = train_judge(torch.from_numpy(train.images[:n]), torch.from_numpy(train.attributes[:n]), chosen.epochs)
    classes = torch.from_numpy(test.attributes)
    right = judged(classifier, torch.from_numpy(test.images), classes.shape[1]).argmax(1) == classes.argmax(1)
    if not chosen.quick:  # a trial must not take the place of the real weights
        Path(chosen.weights).parent.mkdir(parents=True, exist_ok=True)
        torch.save(classifier.state_dict(), chosen.weights)
    row = {"training images": n, "epochs": chosen.epochs, "accuracy": float(right.float().mean())}
    report([{**row, "weights": network_hash(classifier)}], chosen)


if __name__ == "__main__":
    main()
