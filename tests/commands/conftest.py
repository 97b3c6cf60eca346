"""What tests of experiments share."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from patronus_pl.commands import experiment

Leave = Callable[[str, Path], None]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Callable[[Leave], list[list[str]]]:
    """Takes what writes the results of a command, given its name and folder, and is called in place of running it.

    Returns the list of the commands that were to be run.
    """

    def replace(leave: Leave) -> list[list[str]]:
        commands: list[list[str]] = []

        def run(arguments: Sequence[str], log: Path, resume: Sequence[str] = ()) -> None:
            commands.append([*arguments, *resume])
            leave(arguments[0], log.parent)

        monkeypatch.setattr(experiment, "patronus", run)
        return commands

    return replace
