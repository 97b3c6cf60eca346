from typing import Literal

import pytest
import torch

from patronus_pl import hardware


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
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    with hardware.autocast(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    if precision == "auto" and not torch.cuda.is_available():
        assert hardware.best_precision() == ("bf16-mixed" if has else "32-true")
