"""The command `patronus`: Lightning's fit / validate / test / predict, and our own commands beside them."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from patronus_pl import __version__
from patronus_pl.errors import InvalidOptionError, PatronusError
from patronus_pl.rejected import OneLineErrors, fail, remedied

ENGINES = {
    "fit": "train a model",
    "validate": "losses on the validation split",
    "test": "evaluate a checkpoint",
    "predict": "edit a batch of images",
}
COMMANDS = {
    "encode": "write the activations of a data set to a file",
    "sample": "draw images from a prior, or from activations of real images",
    "explain": "one page that shows what the model learned",
    "audit": "which attributes the model ties together, and whether the data do",
    "audit-experiment": "audits of models trained on planted ties of growing strength",
    "ablate": "models with more or fewer prototypes, evaluated side by side",
    "compare": "evaluations side by side",
    "import-reference": "turn a checkpoint of the paper's authors into ours",
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Wrong input ends with one line on stderr and exit code 2. Ctrl-C ends with code 130 and SIGTERM with 143, after
    what was being written is removed.

    Args:
        args: command and options; None takes those of the shell.
    """
    argv = sys.argv[1:] if args is None else list(args)
    try:
        with _ended_by_sigterm():
            _say_or_run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # `patronus compare A B | head`: nobody reads on. Python would flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit code 1
            raise SystemExit(128 + signal.SIGINT) from None
        raise
    except Exception as error:
        line = _one_line(error)
        if line is None:
            raise
        raise SystemExit(fail(line)) from None


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as an exception does, so that partial files are removed on the way out."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _say_or_run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
    elif argv[0] == "--version":
        print(f"patronus {__version__}")
    else:
        _run(argv)


def _one_line(error: BaseException | None) -> str | None:
    """Say an error that the user can mend in one line; return None for a fault of the program.

    jsonargparse and Lightning wrap what a constructor raises, so the errors that this one came from are tried too.
    """
    while error is not None:
        if isinstance(error, PatronusError):
            return f"{error}"
        if _is_lightnings(error):
            return remedied(f"{error}")
        error = error.__cause__ or error.__context__
    return None


def _is_lightnings(error: BaseException) -> bool:
    """Whether Lightning refused an option: the statement that raised the error stands in one of its files."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    refusals = (ValueError, ImportError, NotImplementedError)
    return type(error).__name__ == "MisconfigurationException" or (
        isinstance(error, refusals)
        and frame is not None
        and frame.tb_frame.f_globals.get("__name__", "").startswith("lightning.")
    )


def _overview() -> str:
    """The help page. Written without importing torch, so that it comes at once."""
    rows = [f"  {name:<18}{text}" for name, text in (ENGINES | COMMANDS).items()]
    return "\n".join(
        [
            "usage: patronus COMMAND [options]      (patronus COMMAND --help for the options of one)",
            "",
            "See what an image diffusion model learned.",
            "",
            *rows,
        ]
    )


def _run(argv: list[str]) -> None:
    if argv[0] in ENGINES:
        from patronus_pl.engine import run_engine

        run_engine(argv)
    elif argv[0] in COMMANDS:
        _run_command(argv)
    else:
        raise PatronusError(f"unknown command {argv[0]!r}; choose one of {', '.join(ENGINES | COMMANDS)}")


def _run_command(argv: list[str]) -> None:
    from jsonargparse import ArgumentParser, auto_cli

    class CommandParser(OneLineErrors, ArgumentParser):
        """A parameter `from_` is the option `--from`: its name without underscore would be a keyword of Python."""

        def add_argument(self, *args: Any, **kwargs: Any) -> Any:
            if args and args[0].endswith("_"):
                name = args[0].strip("-_")
                args, kwargs = (f"--{name}",), kwargs | {"dest": f"{name}_", "metavar": name.upper()}
            return super().add_argument(*args, **kwargs)

    name = argv[0].replace("-", "_")
    function = getattr(import_module(f"patronus_pl.commands.{name}"), name)
    from patronus_pl.commands.opening import over_stored_data

    args = _one_list(function, over_stored_data(_data_section([_underscored(arg) for arg in argv[1:]])))
    auto_cli(function, args=args, prog=f"patronus {argv[0]}", parser_class=CommandParser)


def _one_list(function: Callable[..., Any], argv: list[str]) -> list[str]:
    """`compare A B C`: where the first parameter is a list of names, jsonargparse wants them in one argument."""
    import json
    from inspect import signature

    count = next((k for k, arg in enumerate(argv) if arg.startswith("-")), len(argv))
    first = next(iter(signature(function).parameters.values()))
    return [json.dumps(argv[:count]), *argv[count:]] if count and first.annotation == list[str] else argv


def _underscored(arg: str) -> str:
    """`--fail-above 0.2` is `--fail_above 0.2`."""
    name, equals, value = arg.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if arg.startswith("--") else arg


def _data_section(argv: list[str]) -> list[str]:
    """Let `--data configs/X.yaml`, or `--judge_data`, name the YAML of a whole run: its `data` section is meant."""
    import json

    import yaml

    options = ("--data", "--judge_data")
    argv = [part for arg in argv for part in (arg.split("=", 1) if arg.partition("=")[0] in options else [arg])]
    for i, arg in enumerate(argv[:-1]):
        if arg in options and argv[i + 1].endswith((".yaml", ".yml")):
            remedy = "name a YAML file with a `data` section"
            try:
                config = yaml.safe_load(Path(argv[i + 1]).read_text(encoding="utf-8"))
            except (OSError, yaml.YAMLError) as error:
                raise InvalidOptionError(f"{arg} {argv[i + 1]}: {error}; {remedy}") from error
            section = config.get("data", config) if isinstance(config, dict) else None
            if not isinstance(section, dict) or "class_path" not in section:
                raise InvalidOptionError(f"{arg} {argv[i + 1]} says of no data what class they are; {remedy}")
            argv[i + 1] = json.dumps(section)
    return argv
