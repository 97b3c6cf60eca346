"""A step of an experiment: a command of its own, done once, with a log that says what was run."""

from pathlib import Path

import pytest

from patronus_pl import __version__
from patronus_pl.commands.experiment import once, patronus, read_config
from patronus_pl.errors import InvalidOptionError, PatronusError


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
