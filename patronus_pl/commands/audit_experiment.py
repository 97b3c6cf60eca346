"""`patronus audit-experiment`: train on planted ties of growing strength, audit each model, and see what is found."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from patronus_pl.analysis.pages import charts
from patronus_pl.commands.experiment import once, read_config, train
from patronus_pl.errors import InvalidOptionError
from patronus_pl.metrics import auroc
from patronus_pl.runs import writable_folder


def audit_experiment(
    recipe: str = "configs/quickstart.yaml",
    out: str = "runs/audit_experiment",
    pair: str = "Black_Hair,Smiling",
    rhos: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
    seeds: int = 3,
    max_steps: int | None = None,
    n: int = 200,
    judge: str = "exact",
    options: tuple[str, ...] = (),
    audit_options: tuple[str, ...] = (),
) -> None:
    """Train a model for each strength of a planted tie and each seed, audit all, and plot estimate against truth.

    What is finished is not done again, and an interrupted training goes on. Writes a folder for each model, and
    experiment.json and experiment.png.

    Args:
        recipe: YAML of a run, of planted faces (the experiment sets their `correlation`) or other data (their `bias`).
        out: folder for all.
        pair: the two attributes to tie, "A,B"; or "A|B|C,D" for one of a group, as `BiasedSubset` takes it.
        rhos: correlations to plant.
        seeds: number of models for each correlation.
        max_steps: number of training steps; by default that of the recipe.
        n: number of images that each audit edits.
        judge: judge of the audits: exact (planted faces), cnn or probe; it is trained on data without the tie.
        options: more options of `patronus fit`.
        audit_options: more options of `patronus audit`.
    """
    section = read_config(recipe)["data"]
    if len(names := pair.split(",")) != 2 or seeds < 1 or not rhos:
        raise InvalidOptionError(f"--pair {pair!r}, --rhos {rhos}, --seeds {seeds}: give 'A,B', and at least one each")
    folder = writable_folder(Path(out))
    runs = [(rho, seed) for rho in rhos for seed in range(seeds)]
    for rho, seed in tqdm(runs, desc="models", unit="model"):
        run = writable_folder(folder / f"rho_{rho:g}_seed_{seed}")
        tie = _tie(section["class_path"], pair, rho)
        train(run, recipe, seed, [*tie, *options], max_steps)
        how = [f"--n={n}", f"--judge={judge}", "--judge_data", json.dumps(section), *audit_options]
        once(["audit", str(run / "fit"), f"--out={run}", *how], run / "audit.log", run / "audit.json")
    findings = [_read(folder / f"rho_{rho:g}_seed_{seed}", names, rho, seed) for rho, seed in runs]
    result = {"pair": pair, "recipe": recipe, "max_steps": max_steps, **summarise(findings), "runs": findings}
    (folder / "experiment.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / "experiment.png").write_bytes(draw_estimates(result["by_rho"]))
    print(text_table(result))


def _tie(data: str, pair: str, rho: float) -> list[str]:
    """Return the options of `patronus fit` that tie the attributes in the data."""
    if rho == 0:
        return []
    if data.endswith("PlantedFaces"):
        return [f"--data.init_args.correlation={json.dumps({pair: rho})}"]
    return [f"--data.init_args.bias={json.dumps({'pairs': {pair: rho}})}"]


# ---- what was found --------------------------------------------------------------------------------------------------


def _read(run: Path, names: Sequence[str], rho: float, seed: int) -> dict[str, Any]:
    """Return the estimates of the planted tie, and the ties of all other tested pairs."""
    pairs = json.loads((run / "audit.json").read_text(encoding="utf-8"))["pairs"]
    parents, child = names[0].split("|"), names[1]
    tested = [pair for pair in pairs if pair["p"] is not None]
    ways = ((parents[0], child), (child, parents[0]))
    forth, back = ([p for p in tested if (p["moved"], p["attribute"]) == way] for way in ways)
    planted = [*forth, *back]
    # Alternatives of the parent are tied to the child as well: neither found nor missed, they are not counted.
    akin = {pair["attribute"] for pair in pairs if pair["verdict"] == "one group" and pair["moved"] == parents[0]}
    tied = [{parent, child} for parent in (*parents, *akin)]
    others = [pair for pair in tested if {pair["moved"], pair["attribute"]} not in tied]
    calls = [pair["verdict"] != "independent" for pair in others]
    return {
        "rho": rho,
        "seed": seed,
        "estimate": forth[0]["tie"] if forth else None,
        "reverse": back[0]["tie"] if back else None,
        "phi": planted[0]["phi"] if planted else None,
        "planted": [abs(pair["tie"]) for pair in planted],
        "others": [abs(pair["tie"]) for pair in others],
        "found": [pair["verdict"] != "independent" for pair in planted],
        "false": sum(calls),
        "tested": len(others),
    }


def summarise(findings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return Spearman's correlation of estimate and ρ, and for each ρ how well |tie| tells planted pairs from others.

    The estimate is what the second attribute does when the first is moved, as in the paper's experiment. The reverse
    direction is reported apart, since a move that hardly reaches its own attribute has a large tie. A planted pair that
    could not be tested, since its attribute does not move, counts as a tie of 0.

    Args:
        findings: one for each model: `rho`, `estimate`, `reverse`, `planted` and `others` (|tie| of pairs), `found`,
            `false`, `tested`.
    """
    by_rho = []
    for rho in sorted({finding["rho"] for finding in findings}):
        group = [finding for finding in findings if finding["rho"] == rho]
        planted = [tie for finding in group for tie in finding["planted"] or [0.0]]
        others = [tie for finding in group for tie in finding["others"]]
        labels = torch.tensor([1.0] * len(planted) + [0.0] * len(others))
        area = auroc(torch.tensor([*planted, *others])[:, None], labels[:, None])[0, 0] if others and rho else None
        by_rho.append(
            {
                "rho": rho,
                "estimates": [finding["estimate"] or 0.0 for finding in group],
                "reverse": [finding["reverse"] or 0.0 for finding in group],
                "detection_auroc": None if area is None else float(area),
                "power": _mean([float(found) for finding in group for found in finding["found"] or [False]]),
                "false_share": sum(f["false"] for f in group) / max(sum(f["tested"] for f in group), 1),
            }
        )
    truth, estimates = [f["rho"] for f in findings], [f["estimate"] or 0.0 for f in findings]
    vary = len(set(truth)) > 1 and len(set(estimates)) > 1
    return {"spearman": float(spearmanr(truth, estimates).statistic) if vary else None, "by_rho": by_rho}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def draw_estimates(by_rho: Sequence[dict[str, Any]]) -> bytes:
    """Return a PNG of estimate against ρ: mean and range over seeds, and the line on which both are equal."""
    x = torch.tensor([row["rho"] for row in by_rho])
    means, bands = [x], [(x, x)]
    for name in ("estimates", "reverse"):
        mean, low, high = (torch.tensor([function(row[name]) for row in by_rho]) for function in (_mean, min, max))
        means.append(mean)
        bands.append((low, high))
    names = ["as planted", "first moved, second read", "second moved, first read"]
    return charts.curves(x, means, names, bands, "Tie that the audit finds", "planted φ", "tie")


def text_table(result: dict[str, Any]) -> str:
    """Return the numbers for each ρ as text."""
    lines = [f"{'rho':>6} {'estimate':>9} {'reverse':>8} {'AUROC':>7} {'power':>7} {'false':>7}"]
    for row in result["by_rho"]:
        area = "–" if row["detection_auroc"] is None else f"{row['detection_auroc']:.3f}"
        numbers = f"{row['power']:>7.2f} {row['false_share']:>7.3f}"
        lines.append(
            f"{row['rho']:>6.2f} {_mean(row['estimates']):>9.2f} {_mean(row['reverse']):>8.2f} {area:>7} {numbers}"
        )
    return "\n".join([*lines, f"Spearman's correlation of estimate and rho: {result['spearman']}"])
