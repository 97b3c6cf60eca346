"""Two processes that share a run, as torchrun starts them, beside one alone."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patronus_pl.data.loader import Batches, Turns, already_a_batch
from patronus_pl.denoiser import VectorNet
from patronus_pl.diffusion import NoiseSchedule
from patronus_pl.errors import InvalidOptionError
from patronus_pl.modules import LatentPrior
from patronus_pl.modules.checkpoint import save_module
from patronus_pl.ranks import Ranks
from tests.ranks import STEPS, fit, run_of, see

ROOT = Path(__file__).parent.parent
State = dict[str, torch.Tensor]


def on_two_ranks(folder: Path) -> str:
    """Run `tests.ranks` in two processes; returns what they wrote to stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    files = [(folder / f"stderr_{rank}").open("w") for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", str(folder)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        for rank, said in enumerate(files)
    ]
    try:
        codes = [process.wait(timeout=600) for process in processes]
    finally:
        for process, file in zip(processes, files, strict=True):
            process.kill()
            process.wait()
            file.close()
    said = "".join((folder / f"stderr_{rank}").read_text() for rank in range(2))
    assert codes == [0, 0], said[-5000:]
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs, on one rank and on two."""
    here = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        save_module(LatentPrior(VectorNet(16, width=8, blocks=1), NoiseSchedule(100)), here / "prior.ckpt")
        fit(here, "single", 1)
        fit(here, "single_from_single", 1, f"--ckpt_path={run_of(here, 'single') / 'half.ckpt'}")
        (here / "warnings").write_text(on_two_ranks(here))
        fit(here, "single_from_double", 1, f"--ckpt_path={run_of(here, 'double') / 'half.ckpt'}")
        # The same weights on both sides, so that what follows differs by the ranks alone.
        shutil.copytree(run_of(here, "double"), run_of(here, "alone"))
        see(here, "alone", 1)
    return here


def state(folder: Path, name: str, key: str) -> State:
    checkpoint = torch.load(run_of(folder, name) / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == STEPS
    found: State = checkpoint[key]
    return found


@pytest.mark.parametrize("key", ["state_dict", "current_model_state"])  # the average, and the weights themselves
@pytest.mark.parametrize("name", ["double", "double_from_single", "single_from_double", "single_from_single"])
def test_any_number_of_ranks_trains_the_same_weights(folder: Path, name: str, key: str) -> None:
    expected, found = state(folder, "single", key), state(folder, name, key)
    start = torch.load(run_of(folder, "single") / "half.ckpt", weights_only=True)[key]
    assert expected.keys() == found.keys()
    for part, value in expected.items():
        # Lightning puts the weights to resume from into a model that is in float32 still: it rounds them by 2^-24.
        atol, rtol = (1e-9, 0.0) if name == "double" else (1e-6, 2**-22)
        torch.testing.assert_close(found[part], value, atol=atol, rtol=rtol, msg=lambda text, part=part: part + text)
    for part in ("prototypes.vectors", "encoder.layers.0.weight", "denoiser.first.weight", "prototypes.mean"):
        assert (expected[part] - start[part]).abs().max() > 5e-5, part


def test_ranks_are_trained_without_a_warning_of_theirs(folder: Path) -> None:
    said = (folder / "warnings").read_text()
    assert "MEMBER: 2/2" in said
    for words in ("sync_dist", "DistributedSampler", "not resumable", "Grad strides"):
        assert words not in said


def test_ranks_part_before_python_comes_down(folder: Path) -> None:
    """Gloo's threads would abort a process that has done its work, now and then."""
    assert [(folder / f"connected_at_exit_{rank}").read_text() for rank in range(2)] == ["False", "False"]


def test_two_ranks_measure_the_samples_of_one(folder: Path) -> None:
    one, two = (json.loads((run_of(folder, name) / "samples.json").read_text()) for name in ("single", "double"))
    assert len(one) == 1
    assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize(("stage", "count"), [("validate", 5), ("test", 7), ("predict", 7)])
def test_two_ranks_see_every_image_once(folder: Path, stage: str, count: int) -> None:
    ids = [json.loads((folder / f"ids_{stage}_{rank}.json").read_text()) for rank in range(2)]
    split = "val" if stage == "validate" else "test"
    assert sorted(ids[0] + ids[1]) == [f"{split}-{i:06d}" for i in range(count)]
    assert len(ids[0]) - len(ids[1]) == 1


def numbers(value: Any, path: str = "") -> dict[str, Any]:
    """Every number and word of an evaluation, by its path."""
    if isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, entry in entries for key, leaf in numbers(entry, f"{path}/{name}").items()}
    return {path: value}


def test_two_ranks_write_the_evaluation_of_one(folder: Path) -> None:
    """Losses weigh seven images alike, of which one rank has four and the other three."""
    one, two = (numbers(json.loads((folder / name / "evaluation.json").read_text())) for name in ("alone", "double"))
    assert one["/denoising/protocol/batch_size"] == 4
    for name in ("real_s", "prior"):
        assert one[f"/distances/from_{name}/Frechet distance (RandomFeatures)"] > 0
    for evaluation in (one, two):
        assert evaluation.pop("/denoising/loss_other") > 0  # of another image on the same rank
    assert two.keys() == one.keys()
    for name, value in one.items():
        assert two[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name


def test_two_ranks_encode_every_image_once(folder: Path) -> None:
    together, alone = (np.load(folder / f"{name}.npz") for name in ("double", "alone"))
    assert together["ids"].tolist() == [f"test-{i:06d}" for i in range(7)]
    assert together.files == alone.files
    for name in ("attributes", "attribute_names", "ids"):
        assert np.array_equal(together[name], alone[name]), name
    np.testing.assert_allclose(
        together["activations"], alone["activations"], atol=1e-3
    )  # other batches round differently
    assert len(np.unique(together["activations"][:, 0])) == 7


def test_two_ranks_sample_every_image_once(folder: Path) -> None:
    names = [*(f"{k:05d}.png" for k in range(5)), "grid.png"]
    for run in ("double", "alone"):
        assert sorted(path.name for path in (folder / f"{run}_samples").iterdir()) == names
    for name in names:
        one, other = (
            np.asarray(Image.open(folder / f"{run}_samples" / name)).astype(int) for run in ("double", "alone")
        )
        assert abs(one - other).max() <= 1, name  # other batches round differently
        assert one.std() > 1


# -------------------------------------------------------------------------------------------------- who takes which row


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_batch_is_taken_by_one_rank(size: int) -> None:
    parts = [Ranks(rank, size).batches(11, 4) for rank in range(size)]
    assert sorted((rows for part in parts for rows in part), key=min) == [range(4), range(4, 8), range(8, 11)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_has_everything() -> None:
    alone = Ranks.met()
    assert alone == Ranks(0, 1)
    assert alone.in_turn([alone.batches(5, 2)]) == [[range(2), range(2, 4), range(4, 5)]]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("count", [24, 25, 37, 5])
def test_batches_of_all_ranks_are_those_of_one(ranks: int, count: int) -> None:
    """At twelve rows a step."""
    one = list(Turns(count, 12, shuffle_seed=3))
    parts = [list(Turns(count, 12 // ranks, ranks, rank, shuffle_seed=3)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    together = [row for turn in zip(*parts, strict=True) for row in turn]
    used = len(together)
    assert together == one[:used]
    assert used == (count // 12 * 12 if count >= 12 else count // ranks * ranks)
    assert [len(part) for part in parts] == [len(Turns(count, 12 // ranks, ranks, 0, 3))] * ranks


def test_every_epoch_has_an_order_of_its_own() -> None:
    turns, orders = Turns(20, 5, shuffle_seed=0), []
    for epoch in (0, 1, 0):
        turns.set_epoch(epoch)
        orders.append(list(turns))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(20))
    assert orders[0] != list(Turns(20, 5, shuffle_seed=1))


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_in_order_every_row_is_taken_once(ranks: int) -> None:
    parts = [list(Turns(7, 2, ranks, rank)) for rank in range(ranks)]
    assert sorted(row for part in parts for row in part) == list(range(7))
    assert all(part == sorted(part) for part in parts)


def test_more_devices_than_images() -> None:
    with pytest.raises(InvalidOptionError, match=r"2 image\(s\) cannot be shared by 3 devices; use at most 2"):
        Turns(2, 1, 3, 0)


class Names:
    """A table of rows that have a name."""

    def __len__(self) -> int:
        return 20

    def __getitems__(self, rows: list[int]) -> dict[str, list[int]]:
        return {"id": rows}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("epoch", [0, 3])
def test_a_loader_goes_on_in_the_middle_of_an_epoch(workers: int, epoch: int) -> None:
    def loader() -> Batches:
        return Batches(
            Names(),  # type: ignore[arg-type]
            batch_size=4,
            sampler=Turns(20, 4, shuffle_seed=1),
            collate_fn=already_a_batch,
            num_workers=workers,
        )

    whole, half, rest = loader(), loader(), loader()
    whole.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    expected = [batch["id"] for batch in whole]
    half.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    batches = iter(half)
    first = [next(batches)["id"] for _ in range(2)]
    rest.load_state_dict(half.state_dict())
    second = iter(rest)  # Lightning asks for it before it says which epoch
    rest.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    assert first + [batch["id"] for batch in second] == expected
    rest.sampler.set_epoch(epoch + 1)  # type: ignore[attr-defined]
    assert len(list(rest)) == 5
