"""Latent quality at the size of the published protocol: the usual loop over scikit-learn calls against one solve.

python benchmarks/latent_quality.py                       10,000 x 100 latents x 40 attributes x 5 folds
python benchmarks/latent_quality.py --loop-attributes 4   the loop on 4 attributes only, its time scaled up
"""

import argparse
import json
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from patronus_pl.metrics import dci, linear_probe, total_auroc_difference


def planted(n, m, a, seed):
    """Correlated latents; attributes from rare to common, from noise to almost separable, like CelebA's."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, m)) @ (0.3 * np.eye(m) + rng.normal(size=(m, m)) / m**0.5)
    logits = x @ rng.normal(size=(m, a))
    logits = logits / logits.std(axis=0) * np.geomspace(0.1, 10, a) + rng.normal(size=a)
    return x, (logits + rng.logistic(size=(n, a)) > 0).astype(float)


def folds_of(x):
    for train, test in KFold(5, shuffle=True, random_state=0).split(x):
        scaler = StandardScaler().fit(x[train])
        yield train, test, scaler.transform(x[train]), scaler.transform(x[test])


def probe_by_loop(x, y):
    areas = np.zeros((5, y.shape[1]))
    for f, (train, test, x_train, x_test) in enumerate(folds_of(x)):
        for k in range(y.shape[1]):
            model = LogisticRegression(max_iter=1000).fit(x_train, y[train, k])
            areas[f, k] = roc_auc_score(y[test, k], model.decision_function(x_test))
    return areas.mean(axis=0)


def table_by_loop(x, y):
    tables = [
        [[roc_auc_score(target, latent) for latent in x_train.T] for target in y[train].T]
        for train, _, x_train, _ in folds_of(x)
    ]
    return np.mean([np.maximum(t, 1 - np.array(t)) for t in tables], axis=0)


def timed(function, *arguments):
    started = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--latents", type=int, default=100)
    parser.add_argument("--attributes", type=int, default=40)
    parser.add_argument("--loop-attributes", type=int, help="run the loop on this many; default all")
    parser.add_argument("--out", type=Path, default=Path("latent_quality.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    x, y = planted(options.n, options.latents, options.attributes, seed=0)
    some = np.linspace(0, y.shape[1] - 1, options.loop_attributes or y.shape[1]).astype(int)
    scale = y.shape[1] / len(some)
    probe, probe_time = timed(linear_probe, x, y)
    tad, tad_time = timed(lambda: total_auroc_difference(x, y, folds=5))
    _, dci_time = timed(dci, x, y)
    probe_loop, probe_loop_time = timed(probe_by_loop, x, y[:, some])
    table_loop, table_loop_time = timed(table_by_loop, x, y[:, some])

    rows = [
        ("linear probe", probe_time, probe_loop_time * scale, np.abs(probe.per_attribute[some] - probe_loop).max()),
        ("TAD", tad_time, table_loop_time * scale, np.abs(tad.auroc[some] - table_loop).max()),
    ]
    print(f"{options.n} images, {options.latents} latents, {options.attributes} attributes, 5 folds")
    print(f"{'':14}{'here':>9}{'loop':>10}{'faster':>9}{'largest difference in AUROC':>30}")
    for name, ours, loop, difference in rows:
        print(f"{name:14}{ours:8.2f}s{loop:9.1f}s{loop / ours:8.0f}x{difference:30.1e}")
    print(f"{'DCI, no folds':14}{dci_time:8.2f}s")
    if scale > 1:
        print(f"the loop ran on {len(some)} attributes; its times are scaled by {scale:g}")
    record = {
        "n": options.n, "latents": options.latents, "attributes": options.attributes, "folds": 5,
        "loop_attributes": len(some), "threads": torch.get_num_threads(), "machine": platform.processor(),
        "numpy": np.__version__, "scikit-learn": sklearn.__version__, "dci_seconds": dci_time,
        "rows": [dict(zip(("name", "seconds", "loop_seconds", "difference"), row, strict=True)) for row in rows],
    }  # fmt: skip
    options.out.write_text(json.dumps(record, indent=2, default=float) + "\n")


if __name__ == "__main__":
    main()
