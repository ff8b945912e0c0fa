"""The CUDA libraries and devices of this machine, looked at without torch or ONNX Runtime.

ONNX Runtime's CUDA provider is a shared library that needs others. The wheels ``nvidia-*`` bring them, in
``site-packages/nvidia/*/lib``, where the loader does not look by itself; loaded beforehand, they are found.
"""

import ctypes
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CUDA_LIBRARIES", "CudaDriver", "cuda_driver", "preload_cuda_libraries"]

# what each build's provider asks for, in an order in which each finds what it needs itself
CUDA_LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime-gpu": (
        "libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcufft.so.12", "libcurand.so.10", "libcudnn.so.9",
    ),
    "onnxruntime-training": (
        "libcudart.so.11.0", "libcublasLt.so.11", "libcublas.so.11", "libcufft.so.10", "libcurand.so.10",
        "libcudnn.so.8",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class CudaDriver:
    """What the installed driver says of itself.

    Attributes:
        version: Newest CUDA that it runs, for example ``12.4``.
        devices: Names of the GPUs.
    """

    version: str
    devices: tuple[str, ...]


def preload_cuda_libraries(distribution: str) -> dict[str, str | None]:
    """Load the CUDA libraries that a build of ONNX Runtime needs, from the ``nvidia-*`` wheels or the system.

    Args:
        distribution: The build, for example ``onnxruntime-training``.

    Returns:
        Library → where it was loaded from (its bare name: found by the loader), or None where it is missing. Empty for
        builds that need none.
    """
    folders = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/lib"))
    return {name: _load(name, folders) for name in CUDA_LIBRARIES.get(distribution, ())}


def cuda_driver() -> CudaDriver | None:
    """Return the driver's version and devices, or None where there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    if driver.cuInit(0) == 0:
        driver.cuDeviceGetCount(ctypes.byref(count))
    names = []
    for index in range(count.value):
        device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode(errors="replace"))
    # 12040 stands for 12.4
    return CudaDriver(f"{version.value // 1000}.{version.value % 1000 // 10}", tuple(names))


def _load(name: str, folders: list[Path]) -> str | None:
    for candidate in (*(folder / name for folder in folders), Path(name)):
        if candidate.is_absolute() and not candidate.is_file():
            continue
        try:
            ctypes.CDLL(str(candidate), mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return str(candidate)
    return None
