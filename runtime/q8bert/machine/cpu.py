"""What the CPU of this machine is and can do, as far as the system tells."""

import platform
from pathlib import Path

__all__ = ["computes_bfloat16", "cpu_description", "cpu_features", "cpu_name"]

# what decides how fast and how exact INT8 products are
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# the lines that are alike on all cores and name the CPU or its instructions, on x86 and on ARM
_TELLING = ("model name", "flags", "Features", "CPU part")


def cpu_features() -> tuple[str, ...]:
    """Return which of the instructions that matter to INT8 this CPU has; none where the system does not tell."""
    words = _words()
    return tuple(flag for flag in _FLAGS if flag in words)


def computes_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; False where the system does not tell."""
    return not _BFLOAT16_FLAGS.isdisjoint(_words())


def cpu_name() -> str:
    """Return the name that the CPU gives itself, or its architecture where the system does not tell."""
    names = [line.partition(":")[2].strip() for line in _telling_lines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_description() -> list[str]:
    """Return machine, name and instructions; two CPUs that differ in what they can run differ here."""
    return [platform.machine(), platform.processor(), *_telling_lines()]


def _words() -> set[str]:
    return {word for line in _telling_lines() for word in line.split()}


def _telling_lines() -> list[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    return sorted({line for line in lines if line.startswith(_TELLING)})
