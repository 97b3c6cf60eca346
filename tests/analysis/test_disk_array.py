"""Rows come back as they were written, and memory holds none of them."""

import tracemalloc

import pytest
import torch

from patronus_pl.analysis.disk_array import DiskArray


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_parts_are_read_and_set_as_those_of_a_tensor(dtype: torch.dtype) -> None:
    expected = torch.zeros(3, 2, 4, 5, dtype=dtype)
    spool = DiskArray(expected.shape, dtype)
    values = torch.randint(0, 256, expected.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected[2], expected[0, 1], expected[1, 0, 3] = values[2], values[0, 1], values[1, 0, 3]
    spool[2], spool[0, 1], spool[1, 0, 3] = values[2], values[0, 1], values[1, 0, 3]
    assert (len(spool), spool.shape, spool[1].dtype) == (3, expected.shape, dtype)
    assert torch.equal(torch.stack(list(spool)), expected)
    assert torch.equal(spool[0, 1], expected[0, 1])
    spool[1].fill_(7)  # a copy
    assert torch.equal(spool[1], expected[1])


def test_rows_of_nothing_are_empty() -> None:
    assert DiskArray((2, 0, 3))[1].shape == (0, 3)


def test_rows_that_do_not_exist_are_named() -> None:
    spool = DiskArray((2, 3))
    for index in (2, -1, (0, 3)):
        with pytest.raises(IndexError, match=r"of \(2, 3\)"):
            spool[index]
        with pytest.raises(IndexError, match=r"of \(2, 3\)"):
            spool[index] = torch.zeros(3)


def test_a_row_of_another_shape_is_refused_and_nothing_is_written() -> None:
    spool = DiskArray((2, 3))
    with pytest.raises(RuntimeError, match="expand"):
        spool[0] = torch.ones(4)
    assert not spool[0].any()


def test_memory_does_not_grow_with_the_rows() -> None:
    row = torch.ones(2**16, dtype=torch.uint8)
    peaks = []
    for rows in (4, 400):
        tracemalloc.start()
        spool = DiskArray((rows, *row.shape))
        for k in range(rows):
            spool[k] = row
        assert all(bool(values.all()) for values in spool)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**16
