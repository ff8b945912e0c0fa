"""What this environment can do, what it lacks, and which command mends it."""

import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from q8bert.machine.builds import installed_ort_build
from q8bert.machine.cpu import computes_bfloat16, cpu_features
from q8bert.machine.cuda import cuda_driver, preload_cuda_libraries
from q8bert.runtime.engines.engine import ONNX_RUNTIME, OPENVINO
from q8bert.runtime.engines.providers.table import CUDA_PROVIDER
from q8bert.spec.errors import MissingExtraError, OrtBuildError

__all__ = ["DoctorReport", "examine"]

_MODULES_OF_EXTRA = {
    "evaluate": ("scipy", "sklearn"),
    "train": ("torch", "transformers", "onnx", "onnxscript", "safetensors", "tensorboard"),
    "hub": ("datasets",),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "parquet": ("pyarrow",),
    "tfrecord": ("google_crc32c", "google"),
    "mindrecord": ("mindspore",),
    "ray": ("ray", "pyarrow"),
}
_GPU_BUILDS = ("onnxruntime-gpu", "onnxruntime-training")


@dataclass(frozen=True)
class DoctorReport:
    """What was found.

    Attributes:
        healthy: Whether everything that is installed can be used.
        problems: What is wrong, each with its remedy.
        versions: Python, q8bert, the build of ONNX Runtime, and OpenVINO.
        builds_gradients: Whether that build appends a backward pass itself (``--gradients onnxruntime-training``).
        engines: What can run a bundle here: ``onnxruntime``, ``openvino``.
        execution_providers: What the build was made with.
        extras: Extra → whether its packages are there.
        cpu_features: Of the instructions that matter to INT8, those that this CPU has.
        computes_bfloat16: Whether it multiplies bfloat16 in hardware.
        cuda_libraries: Library → where it is, or None; empty for CPU builds.
        cuda_driver: Newest CUDA that the driver runs; None without a driver.
        cuda_devices: Names of the GPUs.
    """

    healthy: bool
    problems: tuple[str, ...]
    versions: Mapping[str, str]
    builds_gradients: bool
    engines: tuple[str, ...]
    execution_providers: tuple[str, ...]
    extras: Mapping[str, bool]
    cpu_features: tuple[str, ...]
    computes_bfloat16: bool
    cuda_libraries: Mapping[str, str | None]
    cuda_driver: str | None
    cuda_devices: tuple[str, ...]


def examine(*, device: bool = True) -> DoctorReport:
    """Look at this environment.

    Args:
        device: Whether a GPU build needs a GPU here to be healthy; False for an image that is built without one.

    Returns:
        The report; nothing found wrong here raises.
    """
    versions = {"python": platform.python_version(), "q8bert": version("q8bert")}
    extras = {
        extra: all(importlib.util.find_spec(module) is not None for module in modules)
        for extra, modules in _MODULES_OF_EXTRA.items()
    }
    driver = cuda_driver()
    problems: list[str] = []
    libraries: dict[str, str | None] = {}
    providers: tuple[str, ...] = ()
    builds_gradients = False
    engines: list[str] = []
    if importlib.util.find_spec("openvino") is not None:
        versions["openvino"] = version("openvino")
        engines.append(OPENVINO)
    try:
        build = installed_ort_build()
    except (OrtBuildError, MissingExtraError) as error:
        if isinstance(error, OrtBuildError) or not engines:
            problems.append(str(error))
    else:
        engines.insert(0, ONNX_RUNTIME)
        versions[build.distribution] = build.version
        builds_gradients = build.builds_gradients
        libraries = preload_cuda_libraries(build.distribution)
        providers = _providers()
        if build.distribution in _GPU_BUILDS:
            problems += _gpu_problems(
                build.extra, libraries, providers, None if driver is None else driver.devices, device=device
            )
    return DoctorReport(
        healthy=not problems,
        problems=tuple(problems),
        versions=versions,
        builds_gradients=builds_gradients,
        engines=tuple(engines),
        execution_providers=providers,
        extras=extras,
        cpu_features=cpu_features(),
        computes_bfloat16=computes_bfloat16(),
        cuda_libraries=libraries,
        cuda_driver=None if driver is None else driver.version,
        cuda_devices=() if driver is None else driver.devices,
    )


def _gpu_problems(
    extra: str,
    libraries: Mapping[str, str | None],
    providers: tuple[str, ...],
    devices: tuple[str, ...] | None,
    *,
    device: bool,
) -> list[str]:
    problems = []
    missing = [name for name, path in libraries.items() if path is None]
    if missing:
        problems.append(
            f'CUDA libraries are missing: {", ".join(missing)}. Run: pip install "q8bert[{extra}]", which brings them'
        )
    if CUDA_PROVIDER not in providers:
        problems.append(f"this build of ONNX Runtime lists no {CUDA_PROVIDER}; install it again")
    if device and devices is None:
        problems.append("no NVIDIA driver was found (libcuda.so.1). Install it, or use the CPU builds of ONNX Runtime")
    elif device and not devices:
        problems.append("the NVIDIA driver sees no GPU; in a container, start it with access to the GPUs")
    return problems


def _providers() -> tuple[str, ...]:
    from q8bert.machine.onnx_runtime import ort  # noqa: PLC0415 - an environment without it is examined too

    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    return tuple(ort.get_available_providers())
