import doctest

import pytest
import torch

from patronus_pl import pixels
from patronus_pl.data import table_match
from patronus_pl.pixels import as_bytes, as_floats


@pytest.mark.parametrize("module", [pixels, table_match])
def test_examples(module: object) -> None:
    found = doctest.testmod(module, extraglobs={"torch": torch})  # type: ignore[arg-type]
    assert (found.failed, found.attempted > 0) == (0, True)


def test_every_byte_comes_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = as_floats(every)
    assert torch.equal(floats, (every.double() / 127.5 - 1).float()) or (floats - every / 127.5 + 1).abs().max() < 1e-6
    assert torch.equal(as_bytes(floats), every)
    assert as_floats(floats) is floats
