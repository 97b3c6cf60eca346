"""The examples in docstrings of the analysis give what they say."""

import doctest
from importlib import import_module

import pytest

FILES = (
    "ranges",
    "editing.changes",
    "editing.decoding",
    "editing.guidance",
    "explain.census",
    "explain.faithfulness",
    "explain.when",
)


@pytest.mark.parametrize("name", FILES)
def test_examples(name: str) -> None:
    found = doctest.testmod(import_module(f"patronus_pl.analysis.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
