"""What each of two processes does for `test_ranks.py`, all of it in one go: to start is what takes longest.

python -m tests.ranks FOLDER, under the variables that torchrun sets.
"""

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import distributed

from patronus_pl.cli import main
from tests.runs import config_args

STEPS, HALF = 6, 3  # epochs have four steps: half is in the middle of one
CALLBACKS: list[dict[str, Any]] = [
    {"class_path": "patronus_pl.callbacks.PrototypeStatistics"},
    {"class_path": "patronus_pl.callbacks.Checkpoint"},
    {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"},
    {
        "class_path": "patronus_pl.callbacks.SampleDistance",
        "init_args": {"every": 1, "images": 3, "sampling": {"steps": 2}},
    },
    {"class_path": "tests.ranks.KeepHalf"},
    {"class_path": "patronus_pl.callbacks.EMA"},
]


# Small patches recur exactly in flat parts of an image: there d² is rounding alone, and s steep in it.
LAYERS = "channels=[3,32,64,64,128]", "kernel_sizes=[3,3,3,1]", "strides=[2,1,1,1]", "paddings=[1,1,1,0]", "init=he"
WIDE = [f"--model.init_args.encoder.init_args.{key}" for key in LAYERS]


class KeepHalf(pl.Callback):
    """A checkpoint of the run half way, and what was measured on samples at the end."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = Path(trainer.log_dir or "")
        if trainer.global_step == HALF:
            trainer.save_checkpoint(folder / "half.ckpt")
        elif trainer.is_global_zero:
            measured = {name: float(value) for name, value in trainer.callback_metrics.items() if "samples/" in name}
            (folder / "samples.json").write_text(json.dumps(measured))


class KeepIds(pl.Callback):
    """The images that this process saw, in a file for each stage and rank."""

    def __init__(self, folder: str) -> None:
        self.folder, self.ids = folder, list[str]()

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: int) -> None:
        self.ids += batch["id"]
        stage = trainer.state.fn.value if trainer.state.fn else ""
        path = Path(self.folder) / f"ids_{stage}_{trainer.global_rank}.json"
        path.write_text(json.dumps(self.ids))

    on_validation_batch_end = on_predict_batch_end = on_test_batch_end


def fit(folder: Path, name: str, ranks: int, *more: str) -> None:
    """Train to the last step, at four images a step on any number of ranks.

    In float64: of many thousand weights a few have gradients that are rounding, which Adam makes as large as any other.
    """
    args = config_args("quickstart", folder)
    args += ["--data.init_args.train_size=18", f"--data.init_args.batch_size={4 // ranks}"]
    # Two channels a group: with one, GroupNorm takes out what a bias adds. Its gradient is then rounding alone, which
    # Adam makes as large as any other.
    args += [*WIDE, "--model.init_args.denoiser.init_args.base=16", "--model.init_args.lr=1e-4"]
    args += [
        "--model.init_args.warmup_steps=0",
        f"--trainer.max_steps={STEPS}",
        f"--trainer.val_check_interval={HALF}",
        "--trainer.log_every_n_steps=1",
    ]
    args += [f"--trainer.logger.init_args.name={name}", f"--trainer.callbacks={json.dumps(CALLBACKS)}"]
    main(["fit", *args, *on(ranks, "64-true"), *more])


def on(ranks: int, precision: str = "32-true") -> list[str]:
    """Options of a Trainer on so many ranks; not in bfloat16, whatever the processor can do: it would hide errors."""
    options = [f"--trainer.devices={ranks}", f"--trainer.precision={precision}", "--trainer.enable_model_summary=false"]
    return options + ["--trainer.strategy=ddp"] * (ranks > 1)


def run_of(folder: Path, name: str) -> Path:
    """Where `fit` put it."""
    return folder / "runs" / name / "version_0"


def see(folder: Path, name: str, ranks: int) -> None:
    """With the last checkpoint of a run: validate and predict (on two ranks only), test, encode and sample.

    5 images validate, 7 test, 4 at once on any number of ranks.
    """
    checkpoint = run_of(folder, name) / "checkpoints/last.ckpt"
    args = [*config_args("quickstart", folder), f"--ckpt_path={checkpoint}"]
    args += ["--data.init_args.val_size=5", "--data.init_args.test_size=7", f"--data.init_args.batch_size={4 // ranks}"]
    args += [*WIDE, "--model.init_args.denoiser.init_args.base=16"]
    if ranks > 1:
        args += ["--trainer.callbacks+=tests.ranks.KeepIds", f"--trainer.callbacks.folder={folder}"]
    for engine in ("validate", "predict") if ranks > 1 else ():
        main([engine, *args, *on(ranks)])
    little = {"n": 7, "inverted": 3, "sampling.steps": 2, "sampling.batch_size": 2}
    little |= {"prior": folder / "prior.ckpt", "out": folder / name}
    main(["test", *args, *on(ranks), *(f"--evaluation.{option}={value}" for option, value in little.items())])
    data = '{"class_path": "patronus_pl.data.PlantedFaces", "init_args": {"test_size": 7, "batch_size": 2}}'
    activations = folder / f"{name}.npz"
    main(["encode", str(checkpoint), f"--out={activations}", "--split=test", "--data", data])
    more = ["--n=5", "--batch_size=2", "--steps=2", f"--out={folder / f'{name}_samples'}"]
    main(["sample", str(checkpoint), f"--from={activations}", *more])


if __name__ == "__main__":
    here = Path(sys.argv[1])
    left = here / f"connected_at_exit_{os.environ['RANK']}"
    atexit.register(lambda: left.write_text(f"{distributed.is_initialized()}"))  # registered first, it runs last
    fit(here, "double", 2)
    fit(here, "double_from_single", 2, f"--ckpt_path={run_of(here, 'single') / 'half.ckpt'}")
    see(here, "double", 2)
