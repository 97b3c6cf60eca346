"""What the command line says of an option that jsonargparse rejects: one line, instead of every type that it tried."""

import re
import sys
from typing import Any, NoReturn

NAMES = {"NoneType": "null", "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
SILENT = re.compile(r"Does not validate against|Subtypes:|Errors:|Given value type:|$")


def fail(message: str) -> int:
    """One line on stderr; the exit code of wrong input."""
    print(f"patronus: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


class OneLineErrors:
    """For a parser of jsonargparse: a rejected option ends with one line and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Called by jsonargparse with its account of what it tried; `ex` is what it caught."""
        if not self.exit_on_error:  # type: ignore[attr-defined]  # it is the attempt of another parser, which goes on
            super().error(message, ex)  # type: ignore[misc]
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        reason = told(message)
        options = f"`{parser.prog.replace(' [options]', '')} --help` tells the options"
        raise SystemExit(fail(f"{reason}; {moved(reason) or options}"))


MOVED = {
    "prediction": "model.prediction.class_path: patronus_pl.diffusion.Velocity (it was v) or Epsilon",
    **{name: f"model.prediction.{name}" for name in ("skip_width", "weight_cap", "timestep_power")},
    **{name: f"model.prototypes.{name}" for name in ("init", "standardise")},
    **{
        name: f"model.objective.{name}.weight"
        for name in ("decorrelation", "kurtosis", "sparsity", "faithfulness", "looking", "distinctness")
    },
    "decorrelation_floor": "model.objective.decorrelation.floor",
    "balance": "model.objective.decorrelation.balance",
    "kurtosis_warmup": "model.objective.kurtosis.warmup",
    "edit_warmup": "model.objective.sparsity.warmup (and of faithfulness and looking)",
    "distinctness_margin": "model.objective.distinctness.margin",
    "revival": "the callback patronus_pl.callbacks.Revival",
    "weight_decay": "gone; AdamW decays weights by 0.01",
}
"""Options of a model in version 0.1, and what became of them."""


def moved(reason: str) -> str | None:
    """Say where an option of version 0.1 is now; None if it is none.

    >>> moved("model of class patronus_pl.modules.PatronusModule: Option 'sparsity' is not accepted")
    'since version 0.2 it is model.objective.sparsity.weight'
    """
    found = re.search(r"PatronusModule: Option '(\w+)' is not accepted|init_args\.(prediction) is ", reason)
    place = MOVED.get(found[1] or found[2]) if found else None
    return place and f"since version 0.2 it is {place}"


def told(account: str) -> str:
    """The first reason in an account: which option, what it may be, what it was.

    An account nests as options do; where several types were tried, the first one is the one that has options.

    >>> told('Parser key "trainer.max_steps":\\n  Expected a <class \\'int\\'>. Got value: many')
    'trainer.max_steps is many, which is not a whole number'
    """
    path: list[str] = []
    wanted: list[str] = []
    class_path = ""
    for line in re.sub(r"NestedArg\(key='\w+', val='?(.+?)'?\)", r"\1", account).splitlines():
        text = line.strip().removeprefix("- ")
        if key := re.match(r'Parser key "(.+?)":', text):
            path.append(key[1])
            if rest := text[key.end() :].strip():
                return f"{'.'.join(path)}: {rest}"
        elif problem := re.match("Problem with given class_path '(.+)':", text):
            path.append("init_args")
            class_path = problem[1]
        elif text.startswith("Expected a "):
            want, got, value = text.removeprefix("Expected a ").partition(". Got value: ")
            wanted.append(_named(want))
            if got:
                return f"{'.'.join(path)} is {value}, which is not {' or '.join(wanted)}"
        elif text.startswith("Given value: ") and wanted:
            return f"{'.'.join(path)} is {text.removeprefix('Given value: ')}, which is not {' or '.join(wanted)}"
        elif not SILENT.match(text):
            option = ".".join(path).removesuffix(".init_args")
            return f"{option} of class {class_path}: {text}" if class_path else text
    return account


LIGHTNING_SAYS = (
    (
        r"`val_check_interval` \((\d+)\) must be .*? training batches \((\d+)\)",
        "trainer.val_check_interval is {0}, and an epoch has {1} "
        "batches; lower it, or count steps over epochs with --trainer.check_val_every_n_epoch null",
    ),
    (
        r"No supported gpu backend found",
        "this machine has no GPU that PyTorch can use; add --trainer.accelerator cpu "
        "--trainer.devices 1 --trainer.strategy auto",
    ),
)
"""What Lightning says at length of frequent mistakes (a pattern), and what is said instead."""


def remedied(message: str) -> str:
    """Say what Lightning found wrong with the options of its Trainer, with the remedy where it names none.

    >>> remedied("No supported gpu backend found!").partition(";")[0]
    'this machine has no GPU that PyTorch can use'
    """
    for pattern, line in LIGHTNING_SAYS:
        if found := re.search(pattern, message, re.DOTALL | re.IGNORECASE):
            return line.format(*found.groups())
    return message


def _named(type_: str) -> str:
    """A type as in YAML."""
    if choices := re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", type_):
        return "one of " + choices[1]
    if re.match("path but .* either not accessible", type_):
        return "a YAML file"
    if type_.startswith("dot import path string"):
        return "the name of a class"
    name = type_.removeprefix("<class '").removesuffix("'>")
    return NAMES.get(name, name)
