"""Latent quality at the size of the published protocol: the usual loop over scikit-learn calls against one solve.

python benchmarks/latent_quality.py                       10,000 x 100 latents x 40 attributes x 5 folds
python benchmarks/latent_quality.py --loop-attributes 4   the loop on 4 attributes only, its time scaled up

Ours is the median of five runs; the loop, which takes minutes, runs once.
"""

import time
import warnings

import numpy as np
from report import median_seconds, options, report
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
    chosen = options(__doc__, "latent_quality", n=10_000, latents=100, attributes=40, loop_attributes=0)
    n, m, a = (500, 8, 4) if chosen.quick else (chosen.n, chosen.latents, chosen.attributes)
    warnings.simplefilter("ignore")
    x, y = planted(n, m, a, seed=0)
    some = np.linspace(0, a - 1, chosen.loop_attributes or a).astype(int)
    scale = a / len(some)
    probe, tad = linear_probe(x, y), total_auroc_difference(x, y, folds=5)
    probe_loop, probe_loop_time = timed(probe_by_loop, x, y[:, some])
    table_loop, table_loop_time = timed(table_by_loop, x, y[:, some])
    rows = []
    for name, ours, loop, difference in (
        ("linear probe", lambda: linear_probe(x, y), probe_loop_time, probe.per_attribute[some] - probe_loop),
        ("TAD", lambda: total_auroc_difference(x, y, folds=5), table_loop_time, tad.auroc[some] - table_loop),
    ):
        seconds = median_seconds(ours, warm_up=0)
        rows.append({"what": name, "seconds": seconds, "loop_seconds": loop * scale, "ratio": loop * scale / seconds})
        rows[-1]["largest_difference"] = float(np.abs(difference).max())
    both = sum(row["loop_seconds"] for row in rows) / sum(row["seconds"] for row in rows)
    rows.append({"what": "DCI, no folds", "seconds": median_seconds(lambda: dci(x, y), 1, 0)})
    report(rows, chosen, loop_attributes=len(some), ratio_of_both=both, goal=50.0)


if __name__ == "__main__":
    main()
