"""What the CPU of this machine can do, as far as the system tells."""

from pathlib import Path

__all__ = ["cpu_features"]

# what decides how fast and how exact INT8 products are
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def cpu_features() -> tuple[str, ...]:
    """Return which of the instructions that matter to INT8 this CPU has; none where the system does not tell."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text(encoding="utf-8", errors="replace").split()) if info.is_file() else set()
    return tuple(flag for flag in _FLAGS if flag in words)
