import os
import pickle
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from patronus_pl.cli import main
from patronus_pl.denoiser.blocks import timestep_embedding
from patronus_pl.diffusion.prediction import Epsilon
from patronus_pl.errors import CheckpointError
from patronus_pl.modules import PatronusModule
from patronus_pl.modules.checkpoint import save_module
from patronus_pl.modules.reference import load_reference
from patronus_pl.objective.distinctness import distinctness_loss

FIXTURE = Path(__file__).parents[1] / "fixtures" / "reference_tiny"


@pytest.fixture(scope="module")
def model() -> PatronusModule:
    return load_reference(FIXTURE)


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    """What the authors' code computes."""
    with np.load(FIXTURE / "expected.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the fixture, to be spoilt."""
    for name in ("ckpt.tar", "config.txt", "config.pickle"):
        shutil.copyfile(FIXTURE / name, tmp_path / name)
    return tmp_path


def assert_relative(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert ((found - wanted).norm() / wanted.norm()).item() < tolerance
    assert (found - wanted).abs().max() < 10 * tolerance * wanted.abs().max()


def test_activations_and_distances(model: PatronusModule, expected: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        assert_relative(model.encode(expected["x0"]), expected["activations"], 1e-4)
        assert_relative(model.prototypes.distances(model.encoder(expected["x0"])), expected["distances"], 1e-4)
        assert_relative(model.similarity_map(expected["x0"]), expected["similarity_map"], 1e-4)


def test_predicted_noise(model: PatronusModule, expected: dict[str, Tensor]) -> None:
    x_t = model.schedule.add_noise(expected["x0"], expected["noise"], expected["t"])
    torch.testing.assert_close(x_t, expected["x_t"], rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        assert_relative(model.denoise(expected["x_t"], expected["t"], expected["activations"]), expected["eps"], 1e-4)


def test_inversion_by_the_authors_loop(model: PatronusModule, expected: dict[str, Tensor]) -> None:
    """They take x_0 for the state at t = 0, and go on from t = T - 1 to ᾱ = 0."""
    x_T, s = expected["x0"][:1], expected["activations"][:1]
    alpha_bar = [*model.schedule.alpha_bar.double().tolist(), 0.0]
    with torch.inference_mode():
        for t, (here, there) in enumerate(pairwise(alpha_bar)):
            eps = model.denoise(x_T, torch.tensor([t]), s)
            x_T = there**0.5 * (x_T - (1 - here) ** 0.5 * eps) / here**0.5 + (1 - there) ** 0.5 * eps
    assert_relative(x_T, expected["ddim_inverted"][:1], 1e-2)


def test_sampling_by_the_authors_loop(model: PatronusModule, expected: dict[str, Tensor]) -> None:
    x = model.decode(expected["x_T"][:1], expected["activations"][:1], steps=1000, clip=False)
    assert_relative(x, expected["ddim_sample"][:1], 1e-2)


def test_distinctness(model: PatronusModule, expected: dict[str, Tensor]) -> None:
    for margin, name in ((0.2, "distinct_loss_margin_0_2"), (0.9, "distinct_loss_margin_0_9")):
        torch.testing.assert_close(distinctness_loss(model.prototypes.vectors, margin), expected[name])


def test_receptive_field(model: PatronusModule, expected: dict[str, Tensor]) -> None:
    field, (rows, cols) = model.encoder.receptive_field, model.encoder.map_size(32, 32)
    assert rows == cols
    assert [rows, field.jump, field.size, field.centre(0)] == expected["receptive_field"].tolist()


def test_the_papers_choices(model: PatronusModule) -> None:
    assert isinstance(model.prediction, Epsilon)
    assert (model.prototypes.standardise, model.prototypes.init) == (False, "random")
    assert model.objective is None
    assert (model.lr, model.warmup_steps, model.final_lr) == (1e-5, 0, 1.0)
    assert (model.prototypes.similarity, model.prototypes.temperature) == ("euclidean", None)
    assert (model.encoder.init, model.denoiser.dropout) == ("normal", 0.1)
    assert not model.training


def test_imported_once_and_for_all(model: PatronusModule, expected: dict[str, Tensor], tmp_path: Path) -> None:
    save_module(model, tmp_path / "model.ckpt")
    loaded = PatronusModule.load_from_checkpoint(tmp_path / "model.ckpt")
    with torch.inference_mode():
        eps = loaded.denoise(expected["x_t"], expected["t"], loaded.encode(expected["x0"]))
    assert_relative(eps, expected["eps"], 1e-4)


@pytest.mark.parametrize("kept", ["config.txt", "config.pickle"])
def test_either_configuration_will_do(folder: Path, model: PatronusModule, kept: str) -> None:
    for name in {"config.txt", "config.pickle"} - {kept}:
        (folder / name).unlink()
    assert load_reference(folder).hparams == model.hparams


# ------------------------------------------------------------------------------------------------ other architectures

THEIRS = {
    "prototypes.vectors": "proactBlock.prototype_vectors",
    "denoiser.time.0.": "time_embeddings.time_blocks.1.",
    "denoiser.time.2.": "time_embeddings.time_blocks.3.",
    "denoiser.condition.": "cond_embeddings.vector_fc.",
    "denoiser.first.": "first.",
    "denoiser.down.": "encoder_blocks.",
    "denoiser.middle.": "bottleneck_blocks.",
    "denoiser.up.": "decoder_blocks.",
    "denoiser.last.": "final.",
    ".norm_": ".normlize_",
    ".time.": ".dense_1.",
    ".condition.": ".dense_2.",
    ".skip.": ".match_input.",
    ".attention.norm.": ".attention.group_norm.",
    ".attention.attention.": ".attention.mhsa.",
}


def their_name(model: PatronusModule, name: str) -> str:
    if name.startswith("encoder.layers."):
        _, _, layer, kind = name.split(".")
        return f"proactBlock.encoder.features.{2 * int(layer)}.{kind}"
    parts = name.split(".")
    if parts[:2] == ["denoiser", "down"] and isinstance(model.denoiser.down[int(parts[2])], torch.nn.Conv2d):
        parts[3:3] = ["downsample"]
    if parts[:2] == ["denoiser", "up"] and isinstance(model.denoiser.up[int(parts[2])], torch.nn.Sequential):
        parts[3:3] = ["upsample"]
    name = ".".join(parts)
    for ours, theirs in THEIRS.items():
        name = name.replace(ours, theirs)
    return name


def write_as_they_do(model: PatronusModule, config: dict[str, Any], folder: Path) -> None:
    weights = {
        their_name(model, name): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("prototypes")
    }
    vectors = model.prototypes.vectors.detach()[:, :, None, None]
    weights["proactBlock.prototype_vectors"], weights["proactBlock.ones"] = vectors, torch.ones_like(vectors)
    table = timestep_embedding(torch.arange(config["TrainingConfig"]["TIMESTEPS"]), config["ModelConfig"]["BASE_CH"])
    weights["time_embeddings.time_blocks.0.weight"] = table
    torch.save({"model": weights, "opt": {}, "scaler": {}}, folder / "ckpt.tar")
    (folder / "config.txt").write_text(repr(config))


def configuration(
    network: dict[str, Any] | None = None, training: dict[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    return {
        "ModelConfig": {
            "BASE_CH": 8,
            "BASE_CH_MULT": (1, 2),
            "APPLY_ATTENTION": (False, False),
            "DROPOUT_RATE": 0.1,
            "TIME_EMB_MULT": 4,
            **(network or {}),
        },
        "TrainingConfig": {
            "TIMESTEPS": 1000,
            "IMG_SHAPE": (1, 32, 32),
            "NUM_PROTOS": 5,
            "plb_channel_inputs": (1, 8, 16),
            "plb_layer_filter_sizes": (3, 3),
            "plb_layer_strides": (2, 1),
            "plb_layer_paddings": (1, 0),
            "LR": 1e-5,
            **(training or {}),
        },
    }


COLOUR = {"IMG_SHAPE": (3, 48, 64), "plb_channel_inputs": (3, 8, 16), "NUM_PROTOS": 1}
MEDICAL = {
    "IMG_SHAPE": (1, 224, 224),
    "plb_channel_inputs": (1, 4, 4, 4, 8, 8),
    "plb_layer_filter_sizes": (5, 5, 5, 5, 5),
    "plb_layer_strides": (2, 2, 1, 1, 1),
    "plb_layer_paddings": (1, 1, 0, 0, 0),
}
SHALLOW = {"BASE_CH_MULT": (1, 1, 1, 1), "APPLY_ATTENTION": (False, False, False, False)}
ATTENTIVE = {"BASE_CH_MULT": (1, 2, 4, 4), "APPLY_ATTENTION": (False, True, False, True), "BASE_CH": 16}


@pytest.mark.parametrize(
    ("network", "training"),
    [
        ({}, COLOUR),
        (SHALLOW, MEDICAL),
        (ATTENTIVE, {"TIMESTEPS": 200}),
        ({"BASE_CH_MULT": (3,), "APPLY_ATTENTION": (True,)}, {}),
    ],
)
def test_other_architectures(
    network: dict[str, Any], training: dict[str, Any], tmp_path: Path, make_model: Callable[..., PatronusModule]
) -> None:
    """Not the fixture's sizes: written in the authors' names from a model of ours, and read back."""
    config = configuration(network, training)
    net, train = config["ModelConfig"], config["TrainingConfig"]
    channels, height, width = train["IMG_SHAPE"]
    original = make_model(
        image_shape=[channels, height, width],
        channels=channels,
        count=train["NUM_PROTOS"],
        encoder={
            "channels": train["plb_channel_inputs"],
            "kernel_sizes": train["plb_layer_filter_sizes"],
            "strides": train["plb_layer_strides"],
            "paddings": train["plb_layer_paddings"],
        },
        prototypes={
            "similarity": "euclidean",
            "temperature": None,
            "standardise": False,
            "dim": train["plb_channel_inputs"][-1],
        },
        denoiser={
            "base": net["BASE_CH"],
            "multipliers": net["BASE_CH_MULT"],
            "attention": net["APPLY_ATTENTION"],
            "blocks": 2,
        },
        schedule={"timesteps": train["TIMESTEPS"]},
        prediction={"class_path": "patronus_pl.diffusion.prediction.Epsilon"},
    )
    write_as_they_do(original, config, tmp_path)
    loaded = load_reference(tmp_path)
    x, t = torch.rand(2, channels, height, width) * 2 - 1, torch.tensor([3, 150])
    with torch.inference_mode():
        s = original.encode(x)
        assert torch.equal(loaded.encode(x), s)
        assert torch.equal(loaded.denoise(x, t, s), original.denoise(x, t, s))
        assert torch.equal(loaded.schedule.alpha_bar, original.schedule.alpha_bar)


def test_their_weight_of_the_distinctness_loss(folder: Path) -> None:
    text = (folder / "config.txt").read_text()
    (folder / "config.txt").write_text(
        text.replace("(1.0, 0.0)", "(1.0, 0.25)").replace("margin': 0.2", "margin': 0.5")
    )
    objective = load_reference(folder).objective
    assert objective is not None
    assert objective.distinctness is not None
    assert (objective.distinctness.weight, objective.distinctness.margin) == (0.25, 0.5)
    (folder / "config.txt").write_text(
        text.replace("('denoiser', 'distinct')", "'denoiser'").replace("(1.0, 0.0)", "1.0")
    )
    assert load_reference(folder).objective is None


# -------------------------------------------------------------------------------------------------------- wrong input


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_the_pickle_does_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "config.txt").unlink()
    payload = pickle.dumps({**configuration(), "BaseConfig": Planted(tmp_path / "ran")})
    (folder / "config.pickle").write_bytes(payload)
    with pytest.raises(
        CheckpointError, match=r"config.pickle' .* holds more than plain values \(it names posix.system\)"
    ):
        load_reference(folder)
    assert not (tmp_path / "ran").exists()
    pickle.loads(payload)  # it would have run
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["torch.load", "builtins.eval", "builtins.getattr", "torch.device.__reduce__"])
def test_no_other_name_is_looked_up(folder: Path, name: str) -> None:
    module, _, attribute = name.partition(".")
    (folder / "config.txt").unlink()
    (folder / "config.pickle").write_bytes(
        b"\x80\x04\x8c"
        + bytes([len(module)])
        + module.encode()
        + b"\x8c"
        + bytes([len(attribute)])
        + attribute.encode()
        + b"\x93."
    )
    with pytest.raises(CheckpointError, match=rf"it names {name}"):
        load_reference(folder)


@pytest.mark.parametrize(
    "planted",
    [
        "__import__('os').system('touch {}')",
        "{{'a': __import__('os').system('touch {}')}}",
        "[open('{}', 'w') for _ in (1,)]",
        "device.__class__.__base__",
        "(" * 5000,
    ],
)
def test_code_in_the_text_does_not_run(folder: Path, tmp_path: Path, planted: str) -> None:
    (folder / "config.txt").write_text(planted.format(tmp_path / "ran"))
    with pytest.raises(
        CheckpointError, match=r"config.txt' is no Python literal .*; copy it anew or use config.pickle"
    ):
        load_reference(folder)
    assert not (tmp_path / "ran").exists()


def test_what_stands_in_a_device_does_not_run(folder: Path, tmp_path: Path) -> None:
    text = (folder / "config.txt").read_text()
    assert "device(type='cuda')" in text
    planted = f"device(__import__('os').system('touch {tmp_path / 'ran'}'))"
    (folder / "config.txt").write_text(text.replace("device(type='cuda')", planted))
    load_reference(folder)
    assert not (tmp_path / "ran").exists()


def test_code_in_the_weights_does_not_run(folder: Path, tmp_path: Path) -> None:
    torch.save({"model": {}, "opt": Planted(tmp_path / "ran")}, folder / "ckpt.tar")
    with pytest.raises(CheckpointError, match=r"ckpt.tar' holds more than tensors and plain values \(posix.system\)"):
        load_reference(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("missing", ["ckpt.tar", "config.*"])
def test_a_missing_file(folder: Path, missing: str) -> None:
    for path in folder.glob(missing):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"no '.*(ckpt.tar|config.pickle)'; name the folder that holds"):
        load_reference(folder)


def test_a_truncated_tar(folder: Path) -> None:
    whole = (folder / "ckpt.tar").read_bytes()
    (folder / "ckpt.tar").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(CheckpointError, match=r"ckpt.tar' is truncated or no checkpoint"):
        load_reference(folder)


def test_a_truncated_pickle(folder: Path) -> None:
    (folder / "config.txt").unlink()
    (folder / "config.pickle").write_bytes((folder / "config.pickle").read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"config.pickle' is truncated"):
        load_reference(folder)


def test_a_tar_of_something_else(folder: Path) -> None:
    torch.save([1, 2], folder / "ckpt.tar")
    with pytest.raises(CheckpointError, match=r"ckpt.tar' has no 'model'"):
        load_reference(folder)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("'NUM_PROTOS'", "'PROTOS'", r"lacks 'NUM_PROTOS'; copy the file"),
        ("'ModelConfig'", "'Model'", r"lacks 'ModelConfig'"),
        ("'ori_att'", "'linear'", r"ATTENTION_TYPE is 'linear', and only 'ori_att' can be read"),
        ("'TIME_EMB_MULT': 4", "'TIME_EMB_MULT': 2", r"TIME_EMB_MULT is 2"),
        ("'NUM_PROTOS': 6", "'NUM_PROTOS': 0", r"does not describe a model .*count is 0"),
        ("'NUM_PROTOS': 6", "'NUM_PROTOS': 'six'", r"does not describe a model"),
        (
            "(1, 32, 32)",
            "(3, 32, 32)",
            r"4 weights differ, such as encoder.layers.0.weight: \[32, 1, 3, 3\] in the file",
        ),
        ("(1, 32, 64, 64, 128)", "()", r"does not describe a model"),
        ("(1, 32, 64, 64, 128)", "1", r"does not describe a model"),
        ("'BASE_CH': 16", "'BASE_CH': 10 ** 30", r"is no Python literal"),
        ("'BASE_CH': 16", "'BASE_CH': 1" + 30 * "0", r"does not describe a model"),
        ("{'BASE_CH'", "'none', 'Other': {'BASE_CH'", r"does not describe a model"),
        ("(1, 32, 32)", "32", r"does not describe a model"),
        ("'TIMESTEPS': 1000", "'TIMESTEPS': 500", r"time_blocks.0.weight is not the constant of the published code"),
        ("'NUM_PROTOS': 6", "'NUM_PROTOS': 7", r"ones is not the constant"),
        (
            "(1, 32, 64, 64, 128)",
            "(1, 32, 64, 32, 128)",
            r"3 weights differ, such as encoder.layers.2.weight: \[64, 64",
        ),
        ("(False, False, False)", "(False, True, False)", r"weights differ, such as .*attention.* absent in the file"),
        ("(1, 2, 2)", "(1, 2)", r"weights differ|does not describe"),
    ],
)
def test_a_configuration_of_something_else(folder: Path, old: str, new: str, words: str) -> None:
    text = (folder / "config.txt").read_text()
    assert old in text
    (folder / "config.txt").write_text(text.replace(old, new))
    with pytest.raises(CheckpointError, match=rf"config.txt'.*{words}"):
        load_reference(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "proactBlock.prototype_vectors",
            r"1 weights differ, such as prototypes.vectors: absent in the file, \[6, 128\]",
        ),
        ("time_embeddings.time_blocks.0.weight", "not the constant"),
        ("proactBlock.ones", "not the constant"),
    ],
)
def test_weights_of_something_else(folder: Path, name: str, words: str) -> None:
    stored = torch.load(folder / "ckpt.tar", weights_only=True)
    weight = stored["model"].pop(name)
    if words == "not the constant":
        stored["model"][name] = weight * 1.01 + 0.1
    torch.save(stored, folder / "ckpt.tar")
    with pytest.raises(CheckpointError, match=rf"ckpt.tar' does not fit .*{words}.*; copy both anew"):
        load_reference(folder)


# --------------------------------------------------------------------------------------------------- as released models


def widened(folder: Path, dataset: str = "CelebA-train") -> Path:
    """Write the fixture as a model of RGB images whose three channels are equal: the sum over channels is unchanged.

    A convolution of weights w on a grey image is one of weights w/3 a channel on that image repeated three times. The
    last convolution predicts the grey noise in each channel.
    """
    folder.mkdir(parents=True)
    stored = torch.load(FIXTURE / "ckpt.tar", weights_only=True)
    weights = stored["model"]
    for name in ("proactBlock.encoder.features.0.weight", "first.weight"):
        weights[name] = weights[name].repeat(1, 3, 1, 1) / 3
    for name in ("final.2.weight", "final.2.bias"):
        weights[name] = torch.cat([weights[name]] * 3)
    torch.save(stored, folder / "ckpt.tar")
    text = (FIXTURE / "config.txt").read_text().replace("(1, 32, 32)", "(3, 32, 32)")
    assert "'plb_channel_inputs': (1, 32," in text
    (folder / "config.txt").write_text(text.replace("FMNIST_clean-train", dataset))
    return folder


def test_rgb_models_say_one_channel_for_the_encoder(tmp_path: Path, expected: dict[str, Tensor]) -> None:
    model = load_reference(widened(tmp_path / "rgb"))
    assert model.image_shape == (3, 32, 32)
    colour, x_t = (expected[name].repeat(1, 3, 1, 1) for name in ("x0", "x_t"))
    with torch.inference_mode():
        assert_relative(model.encode(colour), expected["activations"], 1e-4)
        eps = model.denoise(x_t, expected["t"], expected["activations"])
        assert_relative(eps, expected["eps"].repeat(1, 3, 1, 1), 1e-4)


TREE = "records/diffusion/patronus/CelebA_hair_smile-train/Logs_Checkpoints/checkpoints/version_1"


@pytest.mark.parametrize("named", [".", "records", TREE, f"{TREE}/ckpt.tar"])
def test_any_folder_above_will_do(tmp_path: Path, named: str) -> None:
    widened(tmp_path / TREE, "CelebA_hair_smile-train")
    (tmp_path / "records/loop").symlink_to(tmp_path, target_is_directory=True)
    assert load_reference(tmp_path / named).image_shape == (3, 32, 32)


def test_several_checkpoints_are_listed(tmp_path: Path) -> None:
    for k in range(12):
        (tmp_path / f"version_{k:02}").mkdir()
        (tmp_path / f"version_{k:02}/ckpt.tar").touch()
    with pytest.raises(CheckpointError) as error:
        load_reference(tmp_path)
    message = str(error.value)
    assert message.startswith(f"12 checkpoints below '{tmp_path}': '{tmp_path}/version_00', ")
    assert message.endswith("version_09' and 2 more; name one of them")
    assert "version_10" not in message


def test_lists_and_paths_in_the_configuration(folder: Path, model: PatronusModule) -> None:
    text = (folder / "config.txt").read_text()
    text = text.replace("(1, 32, 64, 64, 128)", "[1, 32, 64, 64, 128]").replace("'./'", "PosixPath('/home/user')")
    (folder / "config.txt").write_text(text.replace("type='cuda'", "type='cuda', index=0"))
    assert load_reference(folder).hparams == model.hparams
    (folder / "config.txt").unlink()
    config = configuration() | {"BaseConfig": {"DEVICE": torch.device("cuda:0"), "repo_home_dir": Path("/home/user")}}
    (folder / "config.pickle").write_bytes(pickle.dumps(config))
    with pytest.raises(CheckpointError, match=r"weights differ|not the constant"):  # read, and of another model
        load_reference(folder)


def spoilt(folder: Path, kind: str) -> Path:
    """Spoil one thing about a checkpoint, and return what a user would name."""
    if kind == "no folder":
        return folder / "nowhere"
    if kind == "empty folder":
        (folder / "empty").mkdir()
        return folder / "empty"
    if kind == "another file":
        return folder / "config.txt"
    if kind == "truncated weights":
        (folder / "ckpt.tar").write_bytes((folder / "ckpt.tar").read_bytes()[:1000])
    elif kind == "no weights":
        (folder / "ckpt.tar").write_bytes(b"")
    elif kind == "malformed text":
        (folder / "config.txt").write_bytes(b"{'ModelConfig': \xff\x00")
    elif kind == "code in the pickle":
        (folder / "config.txt").unlink()
        (folder / "config.pickle").write_bytes(pickle.dumps(Planted(folder / "ran")))
    elif kind == "another model":
        text = (folder / "config.txt").read_text()
        (folder / "config.txt").write_text(text.replace("'BASE_CH': 16", "'BASE_CH': 32"))
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "no folder",
        "empty folder",
        "another file",
        "truncated weights",
        "no weights",
        "malformed text",
        "code in the pickle",
        "another model",
    ],
)
def test_the_command_writes_nothing_from_wrong_input(
    folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = spoilt(folder, kind)
    with pytest.raises(SystemExit) as stop:
        main(["import-reference", str(directory), f"--out={folder / 'out/model.ckpt'}"])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (folder / "out").exists()
    assert not (folder / "ran").exists()
