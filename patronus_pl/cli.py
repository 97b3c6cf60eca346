"""The command `patronus`: Lightning's fit / validate / test / predict, and our own commands beside them."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from patronus_pl import __version__
from patronus_pl.errors import InvalidOptionError, PatronusError
from patronus_pl.rejected import OneLineErrors, fail

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
    """Run one command; wrong input ends with one line on stderr and exit code 2.

    Args:
        args: command and options; None takes those of the shell.
    """
    argv = sys.argv[1:] if args is None else list(args)
    try:
        _say_or_run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # `patronus compare A B | head`: nobody reads on. Python would flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except PatronusError as error:
        raise SystemExit(fail(f"{error}")) from None
    except ValueError as error:
        # jsonargparse wraps what a constructor raises into an account of every type it tried.
        cause = _cause(error)
        if cause is None:
            raise
        raise SystemExit(fail(f"{cause}")) from None


def _say_or_run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
    elif argv[0] == "--version":
        print(f"patronus {__version__}")
    else:
        _run(argv)


def _cause(error: BaseException) -> PatronusError | None:
    """The error of ours that another one was raised from."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
        if isinstance(error, PatronusError):
            return error
    return None


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
        _run_engine(argv)
    elif argv[0] in COMMANDS:
        _run_command(argv)
    else:
        raise PatronusError(f"unknown command {argv[0]!r}; choose one of {', '.join(ENGINES | COMMANDS)}")


def _run_engine(argv: list[str]) -> None:
    import atexit

    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from patronus_pl.callbacks import EMA
    from patronus_pl.commands.ranks import part
    from patronus_pl.hardware import best_precision
    from patronus_pl.modules.checkpoint import read_checkpoint

    class EngineParser(OneLineErrors, LightningArgumentParser): ...

    class PatronusCLI(LightningCLI):
        """Defaults that depend on the machine, and the one order of callbacks that works."""

        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.set_defaults({"trainer.precision": best_precision()})
            if argv[0] == "test":
                from patronus_pl.callbacks.evaluation import Evaluation

                # Beside `model`, not in it: there the checkpoint would win over the command line.
                parser.add_lightning_class_args(Evaluation, "evaluation")

        def before_instantiate_classes(self) -> None:
            _name_run(self.config[self.subcommand])

        def _parse_ckpt_path(self) -> None:
            """Merge the options of the checkpoint's model, of version 0.1 too, with those that were given.

            Lightning's own way does not translate, and looks up whatever class a file names.
            """
            engine = self.config.subcommand
            path = self.config[engine].get("ckpt_path")
            if path and Path(path).is_file():
                options = dict(read_checkpoint(path).get("hyper_parameters", {}))
                options.pop("_instantiator", None)
                if options:
                    model = {"class_path": options.pop("_class_path"), "init_args": options}
                    self.config = self.parser.parse_object({engine: {"model": model}}, self.config)

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            if trainer.precision in ("16-true", "bf16-true"):  # of weights and activations, not of some operations
                raise InvalidOptionError(
                    f"trainer.precision is {trainer.precision}; the activations need weights of float32: use "
                    f"{trainer.precision.replace('true', 'mixed')}, 32-true or 64-true"
                )
            # A callback after EMA would see the raw weights, and `callbacks+:` appends: EMA goes back to its place.
            trainer.callbacks.sort(key=lambda callback: isinstance(callback, EMA))  # type: ignore[attr-defined]
            return trainer

    # Lightning warns whenever arguments are passed from Python, which is what this function is for.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    # The size that it prints is the weights', which are float32 all the same.
    warnings.filterwarnings("ignore", message="Precision bf16-mixed is not supported by the model summary")
    atexit.register(part)
    PatronusCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        args=argv,
        parser_class=EngineParser,
        parser_kwargs={"prog": "patronus"},
    )


def _name_run(config: Any) -> None:
    """Call the run after its first config file, unless its logger was given a name."""
    options: Any = getattr(config.trainer.logger, "init_args", None)
    if config.config and options is not None and options.get("name") == "lightning_logs":
        options.name = Path(str(config.config[0])).stem


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
    args = _one_list(function, _data_section([_underscored(arg) for arg in argv[1:]]))
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
