"""`patronus ablate`: train and evaluate one recipe with more or fewer prototypes, and with the distinctness loss."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from patronus_pl.analysis.pages import charts
from patronus_pl.commands.compare import read_evaluation
from patronus_pl.commands.experiment import once, read_config, train
from patronus_pl.errors import InvalidOptionError
from patronus_pl.runs import find_checkpoint, run_folder, writable_folder

PENALTIES = "decorrelation", "kurtosis", "sparsity", "faithfulness", "looking"
PAPER_START: dict[str, Any] = {
    "encoder": {"init_args": {"init": "normal"}},
    "prototypes": {
        "init_args": {"similarity": "euclidean", "temperature": None, "init": "random", "standardise": False}
    },
    "objective": {name: {"weight": 0.0} for name in PENALTIES},
}
"""The start of configs/paper.yaml: its prototypes, and no penalty of ours; loss and optimiser stay the recipe's."""

NUMBERS: dict[str, Sequence[str | int]] = {
    "probe": ("latents", "probe", "auroc"),
    "probe, local": ("latents", "probe", "local"),
    "probe, global": ("latents", "probe", "global"),
    "accuracy": ("latents", "classes", "accuracy"),
    "TAD": ("latents", "tad", "tad"),
    "captured": ("latents", "tad", "captured"),
    "DCI: D": ("latents", "dci", "disentanglement"),
    "DCI: C": ("latents", "dci", "completeness"),
    "DCI: I": ("latents", "dci", "informativeness"),
    "MSE": ("reconstruction", "random", "mse"),
    "PSNR": ("reconstruction", "random", "psnr"),
    "loss ratio": ("use", "ratio", 1),  # at the middle of three timesteps
    "Fréchet": ("distances", "from_real_s", 0),  # the distance comes first, under the name of its network
    "dead": ("prototypes", "dead"),
    "correlation": ("prototypes", "mean_abs_correlation"),
    "eff. rank": ("prototypes", "effective_rank"),
    "nearest cos": ("prototypes", "nearest_cosine"),
}
"""Columns of the table, and the place of each in an evaluation."""
LEGEND = """\
δ: margin of the distinctness loss. paper: prototypes start, and reach the denoiser, as the paper's. probe: AUROC of
a linear probe. MSE, PSNR: of reconstructions from s and random noise. loss ratio: denoising loss with another image's s
÷ with its own. Fréchet: distance of images from real s, on random features unless others were asked for. dead:
prototypes that hardly vary. correlation: mean |correlation| of two others. eff. rank: independent directions of these.
nearest cos: mean cosine between a prototype and the next."""


class Variant(NamedTuple):
    """One kind of model to train.

    Attributes:
        m: number of prototypes.
        dim: D, their length.
        margin: δ of the distinctness loss; 0 trains without this loss.
        paper: whether the prototypes start as the paper's.
    """

    m: int
    dim: int
    margin: float = 0.0
    paper: bool = False

    @property
    def label(self) -> str:
        """Its name in the table."""
        parts = [f"m={self.m} D={self.dim}", "paper" * self.paper, f"δ={self.margin:g}" * (self.margin > 0)]
        return " ".join(filter(None, parts))

    @property
    def folder(self) -> str:
        """The name of its folder, without the seed."""
        return f"m{self.m}_D{self.dim}" + "_paper" * self.paper + f"_delta_{self.margin:g}" * (self.margin > 0)

    def options(self, channels: Sequence[int], weight: float) -> list[str]:
        """Return the options of `patronus fit` that make it.

        Args:
            channels: channels of the recipe's encoder, of which the last is replaced.
            weight: weight of the distinctness loss.
        """
        parts: dict[str, dict[str, Any]] = {
            "encoder": {"channels": [*channels[:-1], self.dim]},
            "prototypes": {"count": self.m, "dim": self.dim},
            "denoiser": {"condition_dim": self.m},
        }
        loss = {"weight": weight, "margin": self.margin} if self.margin else {"weight": 0.0}
        start = PAPER_START if self.paper else {}
        built = {
            part: {"init_args": {**own, **start.get(part, {}).get("init_args", {})}} for part, own in parts.items()
        }
        model = {**built, "objective": {**start.get("objective", {}), "distinctness": loss}}
        # One option: on their own, options deep inside cannot be null.
        return [f"--model.init_args={json.dumps(model)}"]


def ablate(
    recipe: str,
    out: str = "runs/ablation",
    counts: str = "8,16,32,64,128",
    dims: str = "32,128",
    distinctness: str = "0.2,0.5",
    weight: float = 1.0,
    grid: bool = False,
    seeds: int = 1,
    max_steps: int | None = None,
    options: tuple[str, ...] = (),
    test_options: tuple[str, ...] = (),
) -> None:
    """Train and evaluate a recipe with other numbers and lengths of prototypes, and with the distinctness loss.

    The recipe itself comes first; then each number and each length, one changed at a time; then each margin, also with
    prototypes that start as the paper's, where they collapse. What is finished is not done again. Writes a folder for
    each model, and ablation.md, ablation.json and ablation.png.

    Args:
        recipe: YAML of a run, as configs/quickstart.yaml.
        out: folder for all.
        counts: numbers of prototypes m, with commas; may be empty.
        dims: lengths of prototypes D, with commas; may be empty.
        distinctness: margins δ of the distinctness loss, with commas; empty leaves out the paper's start too.
        weight: weight of the distinctness loss.
        grid: train every number with every length.
        seeds: number of models of each kind.
        max_steps: number of training steps; by default that of the recipe.
        options: more options of `patronus fit`.
        test_options: more options of `patronus test`, such as `--evaluation.n=200`.
    """
    count, dim, channels = sizes(read_config(recipe)["model"], recipe)
    others = _numbers("counts", counts, int), _numbers("dims", dims, int), margins(distinctness)
    if seeds < 1 or weight <= 0:
        raise InvalidOptionError(f"--seeds is {seeds} and --weight {weight}; the one must be at least 1, both positive")
    kinds, folder = variants((count, dim), *others, grid), writable_folder(Path(out))
    for kind, seed in tqdm([(kind, seed) for kind in kinds for seed in range(seeds)], desc="models", unit="model"):
        run = writable_folder(folder / f"{kind.folder}_seed_{seed}")
        train(run, recipe, seed, [*kind.options(channels, weight), *options], max_steps)
        _evaluate(run, folder / "features", test_options)
    runs = {kind: [read_numbers(folder / f"{kind.folder}_seed_{seed}") for seed in range(seeds)] for kind in kinds}
    found = [{"label": kind.label, **kind._asdict(), "runs": runs[kind]} for kind in kinds]
    _write(folder, {"recipe": recipe, "max_steps": max_steps, "weight": weight, "variants": found})


def _write(folder: Path, result: dict[str, Any]) -> None:
    found = result["variants"]
    (folder / "ablation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / "ablation.png").write_bytes(draw_numbers(found))
    (folder / "ablation.md").write_text(f"{markdown_table(found)}\n\n{LEGEND}\n", encoding="utf-8")
    print(f"{markdown_table(found)}\n\n-> {folder / 'ablation.md'}, ablation.json, ablation.png")


# ---- what is trained -------------------------------------------------------------------------------------------------


def sizes(model: Any, recipe: str) -> tuple[int, int, list[int]]:
    """Return m, D and the encoder's channels.

    Args:
        model: the section `model` of a config.
        recipe: the file of the config, for the error.

    Raises:
        InvalidOptionError: the config is not of a model with prototypes, or leaves these sizes out.
    """
    try:
        # A part may be written with its class, or as its options alone.
        encoder, prototypes = (
            part.get("init_args", part) for part in (model["init_args"][name] for name in ("encoder", "prototypes"))
        )
        return int(prototypes["count"]), int(encoder["channels"][-1]), list(encoder["channels"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InvalidOptionError(
            f"{recipe!r} does not say prototypes.count and encoder.channels of a model with prototypes; name "
            "a YAML that does, as configs/quickstart.yaml"
        ) from error


def _numbers(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        numbers = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = [0]
    if any(not number > 0 for number in numbers):
        raise InvalidOptionError(f"--{option} {text!r}: give positive numbers with commas in between, such as 1,2")
    return numbers


def margins(text: str) -> list[float]:
    """Return the margins of the distinctness loss that a text with commas names.

    Raises:
        InvalidOptionError: one is no number in (0, 1].
    """
    found = _numbers("distinctness", text, float)
    if any(margin > 1 for margin in found):
        raise InvalidOptionError(f"--distinctness {text!r}: a margin is at most 1, as cosines are")
    return found


def variants(
    own: tuple[int, int], counts: Sequence[int], dims: Sequence[int], deltas: Sequence[float], grid: bool
) -> list[Variant]:
    """Return the recipe itself, then the other kinds of models, each once.

    Args:
        own: m and D of the recipe.
        counts: other values of m.
        dims: other values of D.
        deltas: margins, for the recipe and for the paper's start; without any, the paper's start is left out too.
        grid: combine each m with each D, instead of each with the recipe's own.
    """
    m, d = own
    apart = [*((count, d) for count in counts), *((m, dim) for dim in dims)]
    pairs = [(count, dim) for dim in dims or [d] for count in counts or [m]] if grid else apart
    found = [Variant(m, d), *(Variant(*pair) for pair in pairs)]
    found += [Variant(m, d, delta) for delta in deltas]
    found += [Variant(m, d, delta, paper=True) for delta in (0.0, *deltas) if deltas]
    return list(dict.fromkeys(found))


def _evaluate(run: Path, cache: Path, options: Sequence[str]) -> None:
    """Run `patronus test`; all models share the features of the real images."""
    checkpoint = find_checkpoint(str(run / "fit"))
    model = ["--config", str(run_folder(checkpoint) / "config.yaml"), f"--ckpt_path={checkpoint}"]
    place = ["--trainer.logger.init_args.name=test", f"--evaluation.out={run}", f"--evaluation.cache={cache}"]
    once(["test", *model, *place, *options], run / "test.log", run / "evaluation.json")


# ---- what was found --------------------------------------------------------------------------------------------------


def read_numbers(run: Path) -> dict[str, float | None]:
    """Return the numbers of an evaluation; None for those that it lacks."""
    evaluation = read_evaluation(str(run))
    return {name: _at(evaluation, path) for name, path in NUMBERS.items()}


def _at(value: Any, path: Sequence[str | int]) -> float | None:
    for key in path:
        if isinstance(value, dict):
            value = list(value.values())[key] if isinstance(key, int) else value.get(key)
        else:
            value = value[key] if isinstance(value, list) and isinstance(key, int) else None
    return float(value) if isinstance(value, int | float) else None


def _shown(found: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[list[float]]]]:
    """Yield each number that any model has, for all variants and seeds; NaN where it is unknown."""
    for name in NUMBERS:
        values = [[math.nan if run[name] is None else run[name] for run in variant["runs"]] for variant in found]
        if np.isfinite(values).any():
            yield name, values


def markdown_table(found: Sequence[dict[str, Any]]) -> str:
    """Return a table in Markdown: means over seeds, ± their standard deviation if there are several.

    Args:
        found: variants, each with its `label` and the numbers of its `runs`.
    """
    columns = [["", *(variant["label"] for variant in found)]]
    columns += [[name, *map(_cell, values)] for name, values in _shown(found)]
    widths = [max(map(len, column)) for column in columns]
    cells = zip(*columns, strict=True)
    rows = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([f"| {rows[0]} |", f"|{rule}|", *(f"| {row} |" for row in rows[1:])])


def _cell(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return "–"
    spread = f" ± {np.std(known, ddof=1):.2g}" if len(known) > 1 else ""
    return f"{np.mean(known):.3g}{spread}"


def draw_numbers(found: Sequence[dict[str, Any]]) -> bytes:
    """Return a PNG with a panel for each number, in it a row for each variant and a point for each seed."""
    names, values = zip(*_shown(found), strict=True)
    return charts.panels(torch.tensor(values), names, [variant["label"] for variant in found], "Ablation")
