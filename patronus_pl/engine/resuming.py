"""Choose the checkpoint of a command, and merge the model in it with what the user said on the command line."""

from argparse import ArgumentError
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import instantiate_module
from lightning.pytorch.utilities import rank_zero_info

from patronus_pl.errors import CheckpointError, InvalidOptionError, PatronusError
from patronus_pl.modules.checkpoint import read_checkpoint
from patronus_pl.runs import find_checkpoint

KeyPath = tuple[str, ...]
"""Names from the model to an option, without `init_args`: ("denoiser", "base")."""


def chosen_checkpoint(engine: str, config: dict[str, Any]) -> Path | None:
    """Return the checkpoint that `--ckpt_path` means: a file, the newest below a folder, or `last` or `best`.

    Args:
        engine: fit, validate, test or predict.
        config: its options.

    Raises:
        CheckpointError: there is none, it is truncated or foreign, or it does not serve that purpose.
    """
    given, trainer = config.get("ckpt_path"), config["trainer"]
    if given is None and engine != "fit" and not trainer.get("fast_dev_run"):
        raise CheckpointError(
            f"{engine} needs a trained model; give --ckpt_path, a checkpoint or the folder of a run such as runs/NAME"
        )
    if given is None or "://" in str(given):
        return None
    path = _newest(str(given), trainer) if given in ("last", "best") else find_checkpoint(str(given))
    checkpoint = read_checkpoint(path)
    if engine == "fit" and not checkpoint.get("optimizer_states"):
        raise CheckpointError(
            f"{str(path)!r} holds weights without the state of the optimiser, so training cannot go on from it; "
            "give a checkpoint that `patronus fit` wrote"
        )
    kind, wanted = (str(name) for name in (_class_of(checkpoint), config["model"]["class_path"]))
    if kind.rpartition(".")[2] != wanted.rpartition(".")[2]:
        raise CheckpointError(
            f"{str(path)!r} is a checkpoint of {kind.rpartition('.')[2]}, and the configuration is one of "
            f"{wanted.rpartition('.')[2]}; use another file or another configuration"
        )
    return path


def _class_of(checkpoint: dict[str, Any]) -> Any:
    return checkpoint.get("hyper_parameters", {}).get("_class_path", "another program")


def _newest(name: str, trainer: dict[str, Any]) -> Path:
    """Find the newest `last.ckpt` or `best.ckpt` of the runs that have the name of this one."""
    logger = trainer.get("logger")
    logger = logger[0] if isinstance(logger, list) and logger else logger
    options = logger.get("init_args", {}) if isinstance(logger, dict) else {}
    base = options.get("save_dir") or trainer.get("default_root_dir") or "."
    folder = Path(base) / (options.get("name") or ("" if logger is False else "lightning_logs"))
    found = f"no checkpoint of an earlier run below {str(folder)!r}"
    if not folder.is_dir():
        raise CheckpointError(f"--ckpt_path {name}: {found}; leave it out to start anew, or name a file")
    try:
        return find_checkpoint(str(folder), f"{name}.ckpt")
    except CheckpointError as error:
        raise CheckpointError(f"--ckpt_path {name}: {found}; leave it out to start anew, or name a file") from error


def model_to_resume(engine: str, model: dict[str, Any], path: Path, argv: list[str]) -> dict[str, Any]:
    """Return the model's configuration: the checkpoint's, with what the user said in its place.

    To `fit`, the configuration files and the shell say what is to change, such as a learning rate or a penalty. The
    other commands use the model as it is, and only the shell's options change it.

    Args:
        engine: fit, validate, test or predict.
        model: its configuration, defaults included, as parsed from files and shell.
        path: the checkpoint.
        argv: the command line.

    Raises:
        InvalidOptionError: a change that the weights in the checkpoint do not fit.
    """
    checkpoint = read_checkpoint(path)
    saved = dict(checkpoint.get("hyper_parameters", {}))
    saved.pop("_instantiator", None)
    before = {"class_path": saved.pop("_class_path"), "init_args": saved}
    said = {*_said_on_shell(argv), *(_said_in_files(argv) if engine == "fit" else ())}
    changes = [key for key in sorted(said) if _value(model, key) != _value(before, key)]
    changes = [key for key in changes if not any(key[:k] in changes for k in range(1, len(key)))]
    merged = _with_changes(before, model, changes)
    if changes and not _fits(merged, checkpoint["state_dict"]):
        wrong = [key for key in changes if not _fits(_with_changes(before, model, [key]), checkpoint["state_dict"])]
        key = (wrong or changes)[0]
        raise InvalidOptionError(
            f"model.{'.'.join(key)} is {_value(model, key)}, and the checkpoint {str(path)!r} was trained with "
            f"{_value(before, key)}: its weights do not fit; leave the option out, or start anew without --ckpt_path"
        )
    for key in changes:
        rank_zero_info(f"model.{'.'.join(key)}: {_value(before, key)} in the checkpoint, {_value(model, key)} now")
    return merged


def _said_on_shell(argv: list[str]) -> Iterator[KeyPath]:
    for k, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name == "--model" or name.startswith("--model."):
            key = tuple(part for part in name.rstrip("+").split(".")[1:] if part != "init_args")
            yield from _leaves(_read(value if equals else "".join(argv[k + 1 : k + 2]), Path()), key, Path())


def _said_in_files(argv: list[str]) -> Iterator[KeyPath]:
    for k, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name in ("--config", "-c"):
            file = Path(value if equals else "".join(argv[k + 1 : k + 2]))
            config = _read(str(file), Path())
            if isinstance(config, dict) and "model" in config:
                yield from _leaves(_read(config["model"], file.parent), (), file.parent)


def _read(value: Any, folder: Path) -> Any:
    """Read the YAML that a text is or names; the parser has accepted it already."""
    if not isinstance(value, str):
        return value
    if value.endswith((".yaml", ".yml")) and (folder / value).is_file():
        return yaml.safe_load((folder / value).read_text(encoding="utf-8"))
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _leaves(value: Any, key: KeyPath, folder: Path) -> Iterator[KeyPath]:
    """Name every option that a section of a configuration sets."""
    if not isinstance(value, dict):
        yield from [key] if key else []
        return
    for name, inner in value.items():
        below = key if name == "init_args" else (*key, str(name))
        yield from _leaves(_read(inner, folder) if isinstance(inner, str) else inner, below, folder)


def _inside(node: Any) -> Any:
    return node["init_args"] if isinstance(node, dict) and "class_path" in node and "init_args" in node else node


def _value(model: Any, key: KeyPath) -> Any:
    """Return the value of an option; a class is its name, so that two import paths of one class are equal."""
    node = model
    for name in key:
        inner = node if name == "class_path" else _inside(node)
        node = inner.get(name) if isinstance(inner, dict) else None
        if name == "class_path":
            return str(node).rpartition(".")[2]
    if isinstance(node, dict) and "class_path" in node:
        return str(node["class_path"]).rpartition(".")[2]
    return list(node) if isinstance(node, tuple) else node


def _with_changes(before: dict[str, Any], model: dict[str, Any], changes: list[KeyPath]) -> dict[str, Any]:
    """Return the first configuration with those options of the second."""
    merged: dict[str, Any] = _copied(before)
    for key in changes:
        place = key[:-1] if key[-1] == "class_path" else key
        source: Any = model
        target: Any = merged
        for k, name in enumerate(place):
            inner = _inside(target).get(name)
            if k == len(place) - 1 or not isinstance(inner, dict):  # a part that the checkpoint lacks comes as a whole
                _inside(target)[name] = _copied(_inside(source)[name])
                break
            source, target = _inside(source)[name], inner
    return merged


def _copied(value: Any) -> Any:
    return {name: _copied(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _fits(model: dict[str, Any], state: dict[str, Any]) -> bool:
    """Whether a model of that configuration has weights of the names and shapes in the checkpoint."""
    module, _, name = model["class_path"].rpartition(".")
    try:
        built: LightningModule = instantiate_module(getattr(import_module(module), name), model["init_args"])
    except (PatronusError, ValueError, ArgumentError):
        return False
    shapes = {name: value.shape for name, value in built.state_dict().items()}
    return shapes == {name: value.shape for name, value in state.items()}
