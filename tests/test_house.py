"""How large files may grow, and what the code may not ask."""

import ast
import inspect
import statistics
from pathlib import Path

import patronus_pl
from patronus_pl.modules import PatronusModule

ROOT = Path(patronus_pl.__file__).parent
FILES = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
LENGTHS = {name: len(text.splitlines()) for name, text in FILES.items()}


def test_files_are_short() -> None:
    assert [f"{name}: {lines}" for name, lines in LENGTHS.items() if lines > 350] == []
    assert statistics.median(lines for name, lines in LENGTHS.items() if name.name != "__init__.py") <= 140


def test_the_model_is_small_and_takes_few_arguments() -> None:
    assert LENGTHS[Path("modules/patronus.py")] <= 250
    assert len(inspect.signature(PatronusModule).parameters) <= 12


def test_no_code_asks_which_prediction_it_is() -> None:
    """What depends on v or ε is a method of `Prediction`."""
    asked = [
        f"{name}:{node.lineno}"
        for name, text in FILES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Compare) and "prediction" in ast.unparse(node.left).split(".")[-1]
    ]
    assert asked == []
