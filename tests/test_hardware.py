from pathlib import Path
from typing import Literal

import pytest
import torch

from patronus_pl import hardware


def pretend(monkeypatch: pytest.MonkeyPatch, amx: bool = False, avx512_bf16: bool = False, amd: bool = False) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    monkeypatch.setattr(hardware, "_made_by_amd", lambda: amd)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("precision", "has", "dtype"),
    [
        ("32", True, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("auto", False, torch.float32),
        ("auto", True, torch.bfloat16),
    ],
)
def test_autocast_follows_the_precision_or_the_processor(
    monkeypatch: pytest.MonkeyPatch, precision: Literal["auto", "32", "bf16"], has: bool, dtype: torch.dtype
) -> None:
    pretend(monkeypatch, amx=has)
    with hardware.autocast(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "amd", "precision"),
    [
        (False, False, True, "32-true"),
        (False, True, True, "bf16-mixed"),
        (False, True, False, "32-true"),  # an Intel without AMX: AVX512-BF16 at half the rate of float32
        (True, True, False, "bf16-mixed"),
    ],
)
def test_best_precision_is_bfloat16_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512_bf16: bool, amd: bool, precision: str
) -> None:
    pretend(monkeypatch, amx, avx512_bf16, amd)
    assert hardware.best_precision() == precision


def test_the_maker_is_read_from_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    for maker, is_amd in (("AuthenticAMD", True), ("GenuineIntel", False)):
        path.write_text(f"processor\t: 0\nvendor_id\t: {maker}\nmodel\t\t: 17\n")
        assert hardware._made_by_amd(path) == is_amd
    assert not hardware._made_by_amd(tmp_path / "no such file")  # not Linux
