"""`load_reference`: read a checkpoint of the paper's authors (Weng et al. 2026) as a `PatronusModule`.

Their code leaves a folder `records/diffusion/patronus/DATASET-train/Logs_Checkpoints/checkpoints/version_N/` with
`ckpt.tar`, whose "model" is a state dict, and the configuration twice: `config.txt`, a Python literal except for a
`device(type='cuda')`, and `config.pickle`. Nothing in any of these files is run.
"""

import ast
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patronus_pl.denoiser import UNet
from patronus_pl.denoiser.blocks import timestep_embedding
from patronus_pl.diffusion import Epsilon, NoiseSchedule
from patronus_pl.errors import CheckpointError, InvalidOptionError
from patronus_pl.modules.checkpoint import read_tensors
from patronus_pl.modules.patronus import PatronusModule
from patronus_pl.objective import Decorrelation, Distinctness, Faithfulness, Kurtosis, Objective, Sparsity
from patronus_pl.prototypes import PatchEncoder, PrototypeLayer

PROTOTYPES = "proactBlock.prototype_vectors"
STATISTICS = {f"prototypes.{name}" for name in ("mean", "std", "low", "high")}
# How the name of a weight begins, theirs -> ours. The encoder's names depend on its number of layers: see `_load`.
PREFIXES = {
    PROTOTYPES: "prototypes.vectors",
    "time_embeddings.time_blocks.1.": "denoiser.time.0.",
    "time_embeddings.time_blocks.3.": "denoiser.time.2.",
    "cond_embeddings.vector_fc.": "denoiser.condition.",
    "first.": "denoiser.first.",
    "encoder_blocks.": "denoiser.down.",
    "bottleneck_blocks.": "denoiser.middle.",
    "decoder_blocks.": "denoiser.up.",
    "final.": "denoiser.last.",
}
# Parts inside the name of a weight, theirs -> ours.
PARTS = {
    ".normlize_": ".norm_",
    ".dense_1.": ".time.",
    ".dense_2.": ".condition.",
    ".match_input.": ".skip.",
    ".attention.group_norm.": ".attention.norm.",
    ".attention.mhsa.": ".attention.attention.",
    ".downsample.": ".",
    ".upsample.": ".",
}


CONFIGURATIONS = ("config.txt", "config.pickle")
REMEDY = "name the folder that holds the authors' ckpt.tar and config.txt or config.pickle"
LISTED = 10  # checkpoints that an error lists: they fill a line or two
PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
# What a configuration of wrong types or sizes raises while the model is built from it.
UNUSABLE = (InvalidOptionError, AttributeError, IndexError, MemoryError, OverflowError, TypeError, ValueError)


def load_reference(directory: str | Path) -> PatronusModule:
    """Read the model that the authors' code wrote, with the paper's choices throughout, in evaluation mode.

    The denoiser gets the activations as they are, without standardisation, since the file does not hold their range.

    Args:
        directory: folder with `ckpt.tar` and `config.txt` or `config.pickle` (the text is preferred), the file
            `ckpt.tar` itself, or any folder above with one such checkpoint below it.

    Raises:
        CheckpointError: no checkpoint or several of them, a file that is missing, truncated or holds code, or weights
            that do not fit the configuration.
    """
    folder = find_reference(Path(directory))
    config_file, weights_file = _config_file(folder), folder / "ckpt.tar"
    config = _read_literal(config_file) if config_file.suffix == ".txt" else _read_pickle(config_file)
    try:
        model = _build(config["ModelConfig"], config["TrainingConfig"])
    except KeyError as error:
        raise CheckpointError(
            f"'{config_file}' lacks {error}; copy the file that was written beside ckpt.tar"
        ) from error
    except (*UNUSABLE, RuntimeError) as error:
        raise CheckpointError(f"'{config_file}' does not describe a model of the paper: {_line(error)}") from error
    stored = read_tensors(weights_file)
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
        raise CheckpointError(f"'{weights_file}' has no 'model'; choose a folder that the authors' training code wrote")
    try:
        _load(model, stored["model"])
    except (ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"'{weights_file}' does not fit '{config_file}': {_line(error)}; copy both anew"
        ) from error
    return model.eval()


def find_reference(path: Path) -> Path:
    """Return the one folder with a `ckpt.tar`: the folder itself, or else one below it. Links are not followed.

    Raises:
        CheckpointError: there is none, or there are several, of which the first ten are listed.
    """
    if path.is_file():
        if path.name != "ckpt.tar":
            raise CheckpointError(f"'{path}' is a file other than ckpt.tar; {REMEDY}")
        return path.parent
    if (path / "ckpt.tar").is_file():
        return path
    found = sorted(folder for folder, _, files in os.walk(path) if "ckpt.tar" in files)
    if not found:
        raise CheckpointError(f"no '{path / 'ckpt.tar'}'; {REMEDY}, or a folder above it")
    if len(found) > 1:
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        listed = ", ".join(repr(folder) for folder in found[:LISTED])
        raise CheckpointError(f"{len(found)} checkpoints below '{path}': {listed}{more}; name one of them")
    return Path(found[0])


def _config_file(folder: Path) -> Path:
    for name in CONFIGURATIONS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"no '{folder / 'config.txt'}' or 'config.pickle'; {REMEDY}")


def _line(error: BaseException) -> str:
    """Return the message as one line; the first line of what torch says of a long list."""
    return " ".join(str(error).split())[:300]


class _Device(ast.NodeTransformer):
    """Replace `device(...)` and `PosixPath(...)` by their source text; any other call stays and is refused."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in ("device", *PATHS):
            return ast.copy_location(ast.Constant(ast.unparse(node)), node)
        return node


def _read_literal(path: Path) -> Any:
    try:
        return ast.literal_eval(_Device().visit(ast.parse(path.read_text(encoding="utf-8").strip(), mode="eval")))
    except (OSError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise CheckpointError(
            f"'{path}' is no Python literal ({_line(error)}); copy it anew or use config.pickle"
        ) from error


class _PlainUnpickler(pickle.Unpickler):
    """Read containers, numbers and strings; a `torch.device` or a path becomes a string, any other name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "device"):
            return _device_name
        if module in ("pathlib", "pathlib._local") and name in PATHS:
            return _path_name
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _device_name(*arguments: Any) -> str:
    return ":".join(map(str, arguments))


def _path_name(*arguments: Any) -> str:
    return "/".join(map(str, arguments))


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise CheckpointError(
            f"'{path}' is truncated or holds more than plain values ({_line(error)}) and is not loaded; use config.txt"
        ) from error


def _build(network: Mapping[str, Any], training: Mapping[str, Any]) -> PatronusModule:
    for key, known in (("ATTENTION_TYPE", "ori_att"), ("TIME_EMB_MULT", 4)):
        if network.get(key, known) != known:
            raise ValueError(f"{key} is {network[key]!r}, and only {known!r} can be read")
    channels, height, width = training["IMG_SHAPE"]
    encoder = PatchEncoder(
        # Their code overwrites the first entry by the image's channels: their files say 1 for RGB images too.
        channels=(channels, *training["plb_channel_inputs"][1:]),
        kernel_sizes=training["plb_layer_filter_sizes"],
        strides=training["plb_layer_strides"],
        paddings=training["plb_layer_paddings"],
        init="normal",
    )
    prototypes = PrototypeLayer(
        training["NUM_PROTOS"],
        encoder.dim,
        similarity="euclidean",
        temperature=None,
        init="random",
        standardise=False,
    )
    denoiser = UNet(
        image_channels=channels,
        condition_dim=prototypes.count,
        base=network["BASE_CH"],
        multipliers=network["BASE_CH_MULT"],
        attention=network["APPLY_ATTENTION"],
        dropout=network["DROPOUT_RATE"],
    )
    return _module((channels, height, width), encoder, prototypes, denoiser, training)


def _module(
    image_shape: tuple[int, int, int],
    encoder: PatchEncoder,
    prototypes: PrototypeLayer,
    denoiser: UNet,
    training: Mapping[str, Any],
) -> PatronusModule:
    """Build the module with the paper's choices of training."""
    return PatronusModule(
        image_shape=image_shape,
        encoder=encoder,
        prototypes=prototypes,
        denoiser=denoiser,
        schedule=NoiseSchedule(training["TIMESTEPS"]),
        prediction=Epsilon(),
        objective=_objective(training),
        lr=training["LR"],
        warmup_steps=0,
        final_lr=1.0,
    )


def _objective(training: Mapping[str, Any]) -> Objective | None:
    """Return the authors' one optional penalty, if they used it."""
    names, weights = training.get("loss_fn"), training.get("loss_lambda")
    if not isinstance(names, (list, tuple)) or not isinstance(weights, (list, tuple)):
        return None
    weight = float(dict(zip(names, weights, strict=False)).get("distinct", 0.0))
    if not weight:
        return None
    return Objective(
        Decorrelation(0.0),
        Kurtosis(0.0),
        Sparsity(0.0),
        Faithfulness(0.0),
        distinctness=Distinctness(weight, margin=training.get("distinct_margin", 0.2)),
    )


def _load(model: PatronusModule, weights: Mapping[str, Any]) -> None:
    theirs = {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}
    # Two constants that `PatronusModule` computes itself: with other values the file would hold another model.
    timesteps = torch.arange(model.schedule.timesteps)
    _take_constant(theirs, "time_embeddings.time_blocks.0.weight", timestep_embedding(timesteps, model.denoiser.base))
    _take_constant(theirs, "proactBlock.ones", torch.ones_like(model.prototypes.vectors)[:, :, None, None])
    prefixes = PREFIXES | {
        f"proactBlock.encoder.features.{2 * i}.": f"encoder.layers.{i}." for i in range(len(model.encoder.layers))
    }
    ours = {
        _renamed(name, prefixes): tensor.flatten(1) if name == PROTOTYPES else tensor for name, tensor in theirs.items()
    }
    # The file holds no statistics of the activations.
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in STATISTICS}
    _require_same_shapes(ours, expected)
    model.load_state_dict(ours, strict=False)


def _take_constant(weights: dict[str, Tensor], name: str, expected: Tensor) -> None:
    # Two ways to compute the argument 999 ω in float32 change its sine by 1e-4; 1e-3 is above that.
    found = weights.pop(name, None)
    if found is not None and (found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-3)):
        raise ValueError(f"{name} is not the constant of the published code, so the model is not the published one")


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for theirs, ours in prefixes.items():
        if name.startswith(theirs):
            name = ours + name[len(theirs) :]
            break
    for theirs, ours in PARTS.items():
        name = name.replace(theirs, ours)
    return name


def _require_same_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    shapes = [{name: list(tensor.shape) for name, tensor in weights.items()} for weights in (found, expected)]
    wrong = [name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)]
    if wrong:
        in_file, wanted = (shape.get(wrong[0], "absent") for shape in shapes)
        raise ValueError(f"{len(wrong)} weights differ, such as {wrong[0]}: {in_file} in the file, {wanted} expected")
