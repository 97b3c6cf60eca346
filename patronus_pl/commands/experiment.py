"""The steps of experiments with many models: each is a `patronus` command of its own, and none is done twice."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from patronus_pl.errors import InvalidOptionError, PatronusError
from patronus_pl.runs import find_checkpoint

PATIENCE = 30.0
"""Seconds for an interrupted command to save its checkpoint."""


def read_config(config: str) -> dict[str, Any]:
    """Return the YAML of a run, with the YAML files that it names in their places.

    Raises:
        InvalidOptionError: there is no such file, or it is not the YAML of a run.
    """
    path, remedy = Path(config), "name the YAML of a run, as configs/quickstart.yaml"
    if not path.is_file():
        raise InvalidOptionError(f"{config!r}: no such file; {remedy}")
    try:
        found = _with_included(yaml.safe_load(path.read_text(encoding="utf-8")), path.parent)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidOptionError(f"{config!r}: {' '.join(str(error).split())}; {remedy}") from error
    if not isinstance(found, dict) or not {"data", "model"} <= found.keys():
        raise InvalidOptionError(f"{config!r} lacks the sections `data` and `model`; {remedy}")
    return found


def _with_included(value: Any, folder: Path) -> Any:
    """Replace the names of YAML files, which are relative to the file that names them, by what these files say."""
    if isinstance(value, dict):
        return {key: _with_included(entry, folder) for key, entry in value.items()}
    if isinstance(value, str) and value.endswith((".yaml", ".yml")) and (file := folder / value).is_file():
        return _with_included(yaml.safe_load(file.read_text(encoding="utf-8")), file.parent)
    return value


def train(run: Path, config: str, seed: int, options: Sequence[str], max_steps: int | None = None) -> None:
    """Run `patronus fit` into `run/fit`, unless this run has a model already; resume it if it was interrupted.

    Args:
        run: folder of the model.
        config: YAML of the run.
        seed: seed of weights, noise and the order of images.
        options: more options of `patronus fit`.
        max_steps: number of training steps; by default that of the config.
    """
    seeds = [f"--seed_everything={seed}", f"--model.init_args.seed={seed}"]
    length = [] if max_steps is None else [f"--trainer.max_steps={max_steps}"]
    place = ["--trainer.logger.init_args.save_dir", str(run), "--trainer.logger.init_args.name", "fit"]
    stopped = any((run / "fit").rglob("checkpoints/last.ckpt"))
    resume = [f"--ckpt_path={find_checkpoint(str(run / 'fit'))}"] if stopped else []
    once(["fit", "--config", config, *seeds, *options, *length, *place], run / "fit.log", run / "trained", resume)
    (run / "trained").touch()


def once(arguments: Sequence[str], log: Path, result: Path, resume: Sequence[str] = ()) -> None:
    """Run a command, unless its result is there.

    Args:
        arguments: arguments of `patronus`.
        log: file for what the command prints; its first line is the command.
        result: file that is there when the command is done.
        resume: more arguments, by which the same command goes on after an interruption.

    Raises:
        InvalidOptionError: the result is there, but other options made it.
    """
    first = log.read_text(encoding="utf-8").partition("\n")[0] if log.exists() else ""
    same = first == _command(arguments)
    if not result.exists():
        patronus(arguments, log, resume if same else ())
    elif first.startswith("patronus ") and not same:
        raise InvalidOptionError(
            f"{result} was made with other options, see the first line of {log}; choose another --out, or delete "
            f"{result.parent}"
        )


def patronus(arguments: Sequence[str], log: Path, resume: Sequence[str] = ()) -> None:
    """Run a command in a process of its own, so that its model leaves the memory before the next one comes.

    Raises:
        PatronusError: the command failed.
    """
    with log.open("w", encoding="utf-8") as file:
        print(_command(arguments), *(["goes on with", *resume] if resume else []), sep="\n", file=file, flush=True)
        command = [sys.executable, "-m", "patronus_pl", *arguments, *resume]
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # Ctrl-C reaches the command too, which saves what it has: that takes a moment
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            raise
        finally:
            process.terminate()
    if code:
        last = log.read_text(encoding="utf-8").strip().splitlines()[1:][-1:] or ["it said nothing"]
        raise PatronusError(f"patronus {arguments[0]} failed ({last[0]}); see {log}, mend it, and start again")


def _command(arguments: Sequence[str]) -> str:
    """Return the command as a shell takes it, in one line."""
    return shlex.join(["patronus", *arguments]).replace("\n", " ")
