"""The README and the pages of `docs`: their length, their links, and the commands that they show."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from patronus_pl.cli import COMMANDS, ENGINES, main
from patronus_pl.modules.checkpoint import save_module
from tests.conftest import ModelFactory

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHOWING = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""Pages whose commands are those of this version."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Return what GitHub calls the headings of a page."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `patronus` command in code blocks, and of those in the text that have options."""
    blocks = [block for language, block in FENCE.findall(text) if language in ("", "bash")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(patronus [\w-]+ [^`]*--[^`]+)`", FENCE.sub("", text))
    for line in lines:
        words = [] if line.startswith("#") else shlex.split(line, comments=True)
        # The last one: a container mounts /home/patronus before it names the image, patronus:cpu.
        found = [i for i, word in enumerate(words) if re.fullmatch(r"(.*/)?patronus(:\w+)?", word)]
        if found and words[found[-1] + 1 :] and "--help" not in words:
            yield words[found[-1] + 1 :]


def runnable(words: list[str]) -> list[str]:
    """Return a command with the config of a data set in the place of that of its run, and without a checkpoint."""
    words = [re.sub(r"^runs/(\w+)/version_0/config\.yaml$", r"configs/\1.yaml", word) for word in words]
    words = [word.replace("/opt/patronus/", "") for word in words]
    if "--ckpt_path" in words:
        at = words.index("--ckpt_path")
        words = words[:at] + words[at + 2 :]
    return words


SHOWN = {" ".join(runnable(words)): (name_of(page), words) for page in SHOWING for words in commands(page.read_text())}
"""Each command once, with a page that shows it."""


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 220
    assert len(text.split()) <= 1600


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for found in LINK.findall(FENCE.sub("", page.read_text())):
        target = found[0] or found[1]
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), target
        assert not anchor or anchor in anchors(goal), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:\w+/)+\w+\.(?:py|yaml))`", page.read_text()):
        assert any((folder / name).is_file() for folder in (ROOT, ROOT / "patronus_pl")), name


def exit_code(words: list[str]) -> object:
    """Parse a command as the shell would, without running it."""
    with pytest.raises(SystemExit) as ended:
        main([*runnable(words), "--print_config"])
    return ended.value.code


@pytest.mark.parametrize(
    "words", [words for _, words in SHOWN.values()], ids=[f"{page}: {words[0]}" for page, words in SHOWN.values()]
)
def test_commands_parse(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert not exit_code(words), capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--config", "configs/quickstart.yaml", "--model.init_args.sparsity", "0.1"],
        ["explain", "runs/quickstart", "--effort.steps", "20"],
    ],
)
def test_options_of_version_0_1_do_not_parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert exit_code(words) == 2


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/edits.md"], ids=name_of)
def test_python_code_runs(
    page: Path, make_model: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tiny model of four prototypes, in the place of the quickstart's."""
    monkeypatch.chdir(tmp_path)
    masks = {"class_path": "patronus_pl.objective.Masks", "init_args": {}}
    model = make_model(count=4, denoiser={"maskable": True}, masks=masks)
    path = Path("runs/quickstart/version_0/checkpoints/last.ckpt")
    path.parent.mkdir(parents=True)
    save_module(model, path)
    known = {"x": torch.rand(2, 1, 16, 16) * 2 - 1, "keep": torch.ones(2, 4) > 0, "s_new": torch.rand(2, 4)}
    blocks = [code for language, code in FENCE.findall(page.read_text()) if language == "python"]
    for code in blocks:
        exec(code, known)
    assert blocks
    edited = known["edited"]
    assert edited.shape == known["x"].shape
    assert edited.abs().max() <= 1


def test_every_command_is_shown() -> None:
    shown = {words[0] for _, words in SHOWN.values()}
    assert set(COMMANDS) - shown == set()
    assert set(ENGINES) - shown <= {"validate"}


def test_commands_are_found() -> None:
    text = "```\npatronus fit --config a.yaml \\\n    --x 1  # and more\nls\n```\nand `patronus test --y 2`"
    assert list(commands(text)) == [["fit", "--config", "a.yaml", "--x", "1"], ["test", "--y", "2"]]
