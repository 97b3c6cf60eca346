"""Who may import whom, and what may be unpickled: read from the syntax tree, so that no lazy import escapes."""

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import patronus_pl

ROOT = Path(patronus_pl.__file__).parent
SHARED = {"types", "errors", "pixels", "files"}
LOWER = {"data", "prototypes", "denoiser", "diffusion", "metrics"}
MODULES = {"modules", "objective", "prototypes", "denoiser", "diffusion"}
GROUND = {"analysis", "ranks", "modules", "objective", "prototypes", "diffusion", "metrics"} | SHARED
EDITING = {"analysis.editing"} | GROUND
EXPLAIN, ATTRIBUTES = {"analysis.explain"} | EDITING, {"analysis.attributes"} | EDITING
EVALUATE = {"analysis.evaluate"} | EXPLAIN | ATTRIBUTES
PAGES = {"analysis.pages"} | EXPLAIN | ATTRIBUTES
ANALYSIS = {"analysis.report", "analysis.audit"} | EVALUATE | PAGES
# What each folder or file of the package may import from the package; a folder also from itself.
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "pixels": set(),
    "rejected": set(),
    "files": {"errors"},
    "hardware": SHARED,
    "runs": SHARED,
    "ranks": {"hardware"} | SHARED,
    **{name: {name} | SHARED for name in LOWER},
    "objective": {"objective", "prototypes", "diffusion"} | SHARED,
    "modules": MODULES | SHARED,
    "analysis": GROUND,
    "analysis.editing": EDITING,
    "analysis.explain": EXPLAIN,
    "analysis.attributes": ATTRIBUTES,
    "analysis.evaluate": EVALUATE,
    "analysis.pages": PAGES,
    "analysis.report": {"analysis.report"} | EXPLAIN | ATTRIBUTES | PAGES,
    "analysis.audit": {"analysis.audit"} | EXPLAIN | ATTRIBUTES | PAGES,
    "callbacks": LOWER | MODULES | ANALYSIS | {"callbacks", "hardware", "ranks", "runs"} | SHARED,
    "commands": LOWER | MODULES | ANALYSIS | {"commands", "hardware", "ranks", "runs"} | SHARED,
    "engine": LOWER | MODULES | {"callbacks", "commands", "engine", "hardware", "rejected", "runs"} | SHARED,
    "cli": {"commands", "engine", "rejected", "__init__"} | SHARED,
    "__main__": {"cli"},
    "__init__": set(),
}
LIGHTNING = {"data", "modules", "callbacks", "commands", "engine", "cli"}
FILES = sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    """The folder of a file (in `analysis` its room), or its name if it is in none."""
    *folders, name = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(folders[:2] if folders[:1] == ["analysis"] else folders[:1]) or name


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere, with a name that `from` takes out of it: it may be a module too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_imported(name: str) -> str | None:
    """Which part of the package an imported name belongs to."""
    package, _, rest = name.partition(".")
    if package != "patronus_pl":
        return None
    part, _, inner = rest.partition(".")
    room = f"{part}.{inner.partition('.')[0]}"
    return room if room in ALLOWED else part if part in ALLOWED else "__init__"


def unsafe_calls(tree: ast.AST) -> Iterator[str]:
    """Calls that unpickle freely, or could: `torch.load` must say `weights_only=True`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "shelve", "dill", "joblib"):
            yield f"line {node.lineno}: from {node.module} import ..."
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        call = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        unsafe = (
            (call == "torch.load" and keywords.get("weights_only") != "True")
            or call in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "yaml.load")
            or (call == "np.load" and keywords.get("allow_pickle", "False") != "False")
        )
        if unsafe:
            yield f"line {node.lineno}: {call}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_what_its_folder_may(path: Path) -> None:
    part, names = part_of(path), list(imported(ast.parse(path.read_text())))
    assert part in ALLOWED, f"say in this test what {part} may import"
    parts = {found for name in names if (found := part_imported(name)) is not None}
    assert parts <= ALLOWED[part]
    packages = {name.partition(".")[0] for name in names}
    assert "lightning" not in packages or part in LIGHTNING
    assert not packages & {"pytorch_lightning", "diffusers"}
    assert "matplotlib" not in packages or part == "analysis.pages"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_freely(path: Path) -> None:
    assert list(unsafe_calls(ast.parse(path.read_text()))) == []


def test_the_whole_package_was_read() -> None:
    assert {part_of(path) for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from patronus_pl.metrics.features import x", ["metrics"]),
        ("from patronus_pl import commands", ["commands"]),
        ("from patronus_pl.analysis.explain.when import y", ["analysis.explain"]),
        ("from patronus_pl.analysis.subject import Subject", ["analysis"]),
        ("from patronus_pl import __version__", ["__init__"]),
        ("def f():\n    import patronus_pl.data as d", ["data"]),
        ("import numpy", [None]),
    ],
)
def test_imports_are_found_wherever_they_are(code: str, found: list[str | None]) -> None:
    assert [part_imported(name) for name in imported(ast.parse(code))] == found


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "def f():\n    return pickle.load(file)",
        "from pickle import loads",
        "np.load(path, allow_pickle=True)",
        "pickle.Unpickler(file).load()",
    ],
)
def test_free_unpickling_is_found(code: str) -> None:
    assert len(list(unsafe_calls(ast.parse(textwrap.dedent(code))))) == 1


def test_safe_loading_is_not() -> None:
    code = "torch.load(path, weights_only=True); np.load(path); np.load(path, allow_pickle=False); json.load(file)"
    assert list(unsafe_calls(ast.parse(code))) == []
