"""The machine that a benchmark ran on."""

import os
import platform
from pathlib import Path
from typing import Any

_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")


def machine() -> dict[str, Any]:
    """Return architecture, name, number and wide instructions of the CPUs, as far as the system tells."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    wide = [flag for flag in _CPU_FLAGS if flag in flags]
    return {"architecture": platform.machine(), "cpu": model, "n_cpus": os.cpu_count(), "flags": wide}
