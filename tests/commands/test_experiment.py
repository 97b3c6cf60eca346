"""A step of an experiment: a command of its own, done once, with a log that says what was run."""

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from patronus_pl import __version__
from patronus_pl.commands.experiment import once, patronus, read_config, train
from patronus_pl.errors import InvalidOptionError, PatronusError
from tests.commands.conftest import Leave


def test_a_command_runs_in_a_process_and_its_log_begins_with_it(tmp_path: Path) -> None:
    log = tmp_path / "it.log"
    patronus(["--version", "two words"], log)
    assert log.read_text().splitlines() == ["patronus --version 'two words'", f"patronus {__version__}"]


def test_a_result_of_the_same_options_is_kept_and_of_others_refused(tmp_path: Path) -> None:
    log, result = tmp_path / "it.log", tmp_path / "result"
    once(["--version"], log, result)
    once(["--help"], log, result)
    assert log.read_text().startswith("patronus --help\n")  # as long as there is no result, it runs
    result.touch()
    before = log.stat().st_mtime_ns
    once(["--help"], log, result)
    assert log.stat().st_mtime_ns == before
    with pytest.raises(InvalidOptionError, match=r"made with other options, see the first line of .*it\.log"):
        once(["--version"], log, result)
    for text in ("Seed set to 0\n", None):  # nothing says that they were others
        log.unlink() if text is None else log.write_text(text)
        once(["--version"], log, result)
    assert not log.exists()


def test_an_interrupted_training_goes_on_if_it_is_the_same(
    instead: Callable[[Leave], list[list[str]]], tmp_path: Path
) -> None:
    def leave(_name: str, run: Path) -> None:
        """What a training leaves that is killed after its first validation."""
        checkpoints = run / "fit" / "version_0" / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        (checkpoints / "last.ckpt").touch()
        own = [argument for argument in commands[-1] if not argument.startswith("--ckpt_path")]
        (run / "fit.log").write_text(shlex.join(["patronus", *own]) + "\n")
        if len(commands) < 3:
            raise PatronusError("killed")

    commands = instead(leave)
    for _ in range(2):
        with pytest.raises(PatronusError, match="killed"):
            train(tmp_path, "X.yaml", 0, [])
    train(tmp_path, "X.yaml", 1, [])
    first, second, other = commands
    assert second == [*first, f"--ckpt_path={tmp_path / 'fit/version_0/checkpoints/last.ckpt'}"]
    assert [*first[:3], "--seed_everything=1", "--model.init_args.seed=1", *first[5:]] == other  # begins anew
    assert (tmp_path / "trained").exists()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT is KeyboardInterrupt, whatever was made of it before: Lightning ignores it once it was interrupted."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_command_has_time_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent is told as by Ctrl-C while it waits; the command ends a second later, by itself."""
    (tmp_path / "patronus_pl").mkdir()
    (tmp_path / "patronus_pl/__init__.py").touch()
    (tmp_path / "patronus_pl/__main__.py").write_text("import time; time.sleep(1.5); print('saved', flush=True)")
    monkeypatch.chdir(tmp_path)
    alarm = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    alarm.start()
    with pytest.raises(KeyboardInterrupt):
        patronus(["fit"], tmp_path / "it.log")
    assert (tmp_path / "it.log").read_text() == "patronus fit\nsaved\n"


def test_a_failing_command_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(PatronusError, match=r"patronus frobnicate failed \(.*unknown command.*see .*fit.log"):
        patronus(["frobnicate"], tmp_path / "fit.log")


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "no such file"), ("[1", "expected"), ("[1]", "lacks the sections"), ("model: {}", "lacks the sections")],
)
def test_what_is_no_config_is_refused(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidOptionError, match=rf"run\.yaml'[\s\S]*{words}[\s\S]*as configs/quickstart\.yaml"):
        read_config(str(path))


def test_files_that_a_config_names_stand_in_their_places(tmp_path: Path) -> None:
    """A name is relative to the file that says it; other strings stay."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "data.yaml").write_text("{class_path: Faces, init_args: {bias: bias.yaml, root: none.yaml}}")
    (tmp_path / "common" / "bias.yaml").write_text("{n: 3}")
    (tmp_path / "run.yaml").write_text("{data: common/data.yaml, model: {class_path: M}}")
    data = {"class_path": "Faces", "init_args": {"bias": {"n": 3}, "root": "none.yaml"}}
    assert read_config(str(tmp_path / "run.yaml")) == {"data": data, "model": {"class_path": "M"}}
