"""`load_reference`: the paper's authors' checkpoints (Weng et al. 2026) as a `PatronusModule`.

Their code leaves a folder with `ckpt.tar`, whose "model" is a state dict, and the configuration twice: `config.txt`, a
Python literal but for a `device(type='cuda')`, and `config.pickle`. Nothing in any of them is run.
"""

import ast
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
# What a name starts with, theirs -> ours; the encoder's are added by its number of layers.
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
# What is further inside.
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


def load_reference(directory: str | Path) -> PatronusModule:
    """The model in a folder that the authors' code wrote, with the paper's choices throughout, in evaluation mode.

    Activations are fed to the denoiser as they are, without standardisation; their ranges are not known.

    Args:
        directory: holds `ckpt.tar`, and `config.txt` or `config.pickle` (the former is preferred).

    Raises:
        CheckpointError: a missing or truncated file, one that holds code, or weights that do not fit the configuration.
    """
    config_file, weights_file = _config_file(Path(directory)), _existing(Path(directory) / "ckpt.tar")
    config = _read_literal(config_file) if config_file.suffix == ".txt" else _read_pickle(config_file)
    try:
        model = _build(config["ModelConfig"], config["TrainingConfig"])
    except KeyError as error:
        raise CheckpointError(
            f"'{config_file}' lacks {error}; copy the file that was written beside ckpt.tar"
        ) from error
    except (InvalidOptionError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"'{config_file}' does not describe a model of the paper: {error}") from error
    stored = read_tensors(weights_file)
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
        raise CheckpointError(f"'{weights_file}' has no 'model'; choose a folder that the authors' training code wrote")
    try:
        _load(model, stored["model"])
    except ValueError as error:
        raise CheckpointError(f"'{weights_file}' does not fit '{config_file}': {error}; copy both anew") from error
    return model.eval()


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(
            f"no '{path}'; name the folder that holds the authors' ckpt.tar and config.txt or config.pickle"
        )
    return path


def _config_file(folder: Path) -> Path:
    text = folder / "config.txt"
    return text if text.is_file() else _existing(folder / "config.pickle")


class _Device(ast.NodeTransformer):
    """`device(...)` -> its source text."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "device":
            return ast.copy_location(ast.Constant(ast.unparse(node)), node)
        return node


def _read_literal(path: Path) -> Any:
    try:
        return ast.literal_eval(_Device().visit(ast.parse(path.read_text(encoding="utf-8").strip(), mode="eval")))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is no Python literal ({error}); copy it anew or use config.pickle") from error


class _PlainUnpickler(pickle.Unpickler):
    """Containers, numbers and strings; a `torch.device` becomes a string, any other name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch", "device"):
            return _device_name
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _device_name(*arguments: Any) -> str:
    return ":".join(map(str, arguments))


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise CheckpointError(
            f"'{path}' is truncated or holds more than plain values ({error}) and is not loaded; use config.txt"
        ) from error


def _build(network: Mapping[str, Any], training: Mapping[str, Any]) -> PatronusModule:
    for key, known in (("ATTENTION_TYPE", "ori_att"), ("TIME_EMB_MULT", 4)):
        if network.get(key, known) != known:
            raise ValueError(f"{key} is {network[key]!r}, and only {known!r} can be read")
    channels, height, width = training["IMG_SHAPE"]
    encoder = PatchEncoder(
        channels=training["plb_channel_inputs"],
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
    return PatronusModule(
        image_shape=(channels, height, width),
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
    # Two constants that ours computes: with other ones in the file, the model would be another.
    timesteps = torch.arange(model.schedule.timesteps)
    _take_constant(theirs, "time_embeddings.time_blocks.0.weight", timestep_embedding(timesteps, model.denoiser.base))
    _take_constant(theirs, "proactBlock.ones", torch.ones_like(model.prototypes.vectors)[:, :, None, None])
    prefixes = PREFIXES | {
        f"proactBlock.encoder.features.{2 * i}.": f"encoder.layers.{i}." for i in range(len(model.encoder.layers))
    }
    ours = {
        _renamed(name, prefixes): tensor.flatten(1) if name == PROTOTYPES else tensor for name, tensor in theirs.items()
    }
    # The statistics of the activations have no counterpart.
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in STATISTICS}
    _require_same_shapes(ours, expected)
    model.load_state_dict(ours, strict=False)


def _take_constant(weights: dict[str, Tensor], name: str, expected: Tensor) -> None:
    # sin(999) in float32 is off by 1e-4 between ways to compute its argument.
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
