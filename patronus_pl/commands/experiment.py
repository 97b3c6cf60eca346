"""What experiments of many models share: each step a `patronus` command of its own, and none is done twice."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from patronus_pl.errors import InvalidOptionError, PatronusError


def read_config(config: str) -> dict[str, Any]:
    """The YAML of a run.

    Raises:
        InvalidOptionError: there is no such file, or it is not one.
    """
    path, remedy = Path(config), "name the YAML of a run, as configs/quickstart.yaml"
    if not path.is_file():
        raise InvalidOptionError(f"{config!r}: no such file; {remedy}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidOptionError(f"{config!r}: {' '.join(str(error).split())}; {remedy}") from error
    if not isinstance(found, dict) or not {"data", "model"} <= found.keys():
        raise InvalidOptionError(f"{config!r} lacks the sections `data` and `model`; {remedy}")
    return found


def train(run: Path, config: str, seed: int, options: Sequence[str], max_steps: int | None = None) -> None:
    """`patronus fit` into `run/fit`, unless this run has a model already.

    Args:
        run: folder of the model.
        config: YAML of the run.
        seed: of weights, noise and the order of images.
        options: more options of `patronus fit`.
        max_steps: of the training; by default that of the config.
    """
    seeds = [f"--seed_everything={seed}", f"--model.init_args.seed={seed}"]
    length = [] if max_steps is None else [f"--trainer.max_steps={max_steps}"]
    place = ["--trainer.logger.init_args.save_dir", str(run), "--trainer.logger.init_args.name", "fit"]
    once(["fit", "--config", config, *seeds, *options, *length, *place], run / "fit.log", run / "trained")
    (run / "trained").touch()


def once(arguments: Sequence[str], log: Path, result: Path) -> None:
    """A command, unless its result is there.

    Args:
        arguments: of `patronus`.
        log: file for what it says; the first line is the command.
        result: file that is there when it is done.

    Raises:
        InvalidOptionError: the result is there, but other options made it.
    """
    if not result.exists():
        patronus(arguments, log)
        return
    first = log.read_text(encoding="utf-8").partition("\n")[0] if log.exists() else ""
    if first.startswith("patronus ") and first != _command(arguments):
        raise InvalidOptionError(
            f"{result} was made with other options, see the first line of {log}; choose another --out, or delete "
            f"{result.parent}"
        )


def patronus(arguments: Sequence[str], log: Path) -> None:
    """A command in a process of its own, so that no model lives in the memory of the next.

    Raises:
        PatronusError: it failed.
    """
    with log.open("w", encoding="utf-8") as file:
        print(_command(arguments), file=file, flush=True)
        done = subprocess.run([sys.executable, "-m", "patronus_pl", *arguments], stdout=file, stderr=file, check=False)
    if done.returncode:
        last = log.read_text(encoding="utf-8").strip().splitlines()[1:][-1:] or ["it said nothing"]
        raise PatronusError(f"patronus {arguments[0]} failed ({last[0]}); see {log}, mend it, and start again")


def _command(arguments: Sequence[str]) -> str:
    """As a shell takes it, in one line."""
    return shlex.join(["patronus", *arguments]).replace("\n", " ")
