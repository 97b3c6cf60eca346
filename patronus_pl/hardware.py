"""What this machine computes fast."""

from pathlib import Path
from typing import Literal

import torch

from patronus_pl.errors import InvalidOptionError


def best_precision() -> Literal["bf16-mixed", "32-true"]:
    """`bf16-mixed` where bfloat16 is faster than float32, else `32-true`.

    It is on GPUs from Ampere on, on CPUs with AMX tiles, and on AMD's with AVX512-BF16. Intel's compute the latter at
    about half the rate of float32 (a Xeon whose hypervisor hides AMX trained the quickstart 1.4 times slower with it),
    and elsewhere it is emulated.
    """
    return "bf16-mixed" if _fast_bfloat16("cuda" if torch.cuda.is_available() else "cpu") else "32-true"


def autocast(device: torch.device, precision: Literal["auto", "32", "bf16"]) -> torch.autocast:
    """Computing in that precision; `auto` is bf16 where that is the faster one."""
    bfloat16 = _fast_bfloat16(device.type) if precision == "auto" else precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)


def _fast_bfloat16(device_type: str) -> bool:
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _cpu_has("_is_amx_tile_supported") or (_cpu_has("_is_avx512_bf16_supported") and _made_by_amd())


def _made_by_amd(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    return cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text(encoding="utf-8")


def _cpu_has(question: str) -> bool:
    # torch asks the processor itself, but under private names that differ between releases.
    return bool(getattr(torch.cpu, question, lambda: False)())


def device_of(name: str) -> torch.device:
    """`auto` (CUDA if there is one), `cpu` or `cuda[:i]`.

    Raises:
        InvalidOptionError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidOptionError(f"unknown device {name!r}; choose auto, cpu or cuda[:i]") from error
    if device.type not in ("cpu", "cuda") or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise InvalidOptionError(
            f"no device {name!r} here ({torch.cuda.device_count()} CUDA devices); choose auto or cpu"
        )
    return device
