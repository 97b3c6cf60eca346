"""Every public function, network and metric of `patronus_pl.metrics` has an example in its docstring, which runs."""

import doctest
import inspect
from dataclasses import is_dataclass

import pytest
from torchmetrics import Metric

from patronus_pl import metrics

PUBLIC = {name: getattr(metrics, name) for name in metrics.__all__}
FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def must_have_an_example(thing: object) -> bool:
    if inspect.isclass(thing):
        return issubclass(thing, Metric) or not (is_dataclass(thing) or issubclass(thing, Exception))
    return callable(thing)


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(name: str) -> None:
    thing = PUBLIC[name]
    # An example starts after `from patronus_pl.metrics import *`, and imports all else itself.
    (found,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(PUBLIC))
    assert found.examples or not must_have_an_example(thing)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    said: list[str] = []
    assert runner.run(found, out=said.append).failed == 0, "".join(said)
