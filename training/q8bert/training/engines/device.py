"""Where training runs: ``cpu``, ``cuda`` or ``cuda:1``, checked before anything long begins."""

import os
import re

import torch

from q8bert.machine.builds import installed_ort_build
from q8bert.machine.cuda import preload_cuda_libraries
from q8bert.machine.onnx_runtime import ort
from q8bert.spec.errors import ConfigError, ProviderError

__all__ = ["CUDA_PROVIDER", "check_training_build", "resolve_device"]

CUDA_PROVIDER = "CUDAExecutionProvider"


def resolve_device(name: str, *, engine: str, gradients: str = "torch") -> torch.device:
    """Turn a device's name into a device that the engine can use.

    Args:
        name: ``cpu``, ``cuda`` (the device of this process: its number on the machine) or ``cuda:N``.
        engine: ``ort`` or ``torch``.
        gradients: ``torch`` or ``onnxruntime-training``.

    Returns:
        The device.

    Raises:
        ConfigError: If the name is none of these.
        ProviderError: If the engine cannot run there.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError([f"device must be cpu, cuda or cuda:N, got {name!r}"])
    if gradients == "onnxruntime-training":
        check_training_build()
    if name == "cpu":
        return torch.device("cpu")
    if engine == "ort" and CUDA_PROVIDER not in ort.get_available_providers():
        build = installed_ort_build()
        raise ProviderError(
            f"device {name} was asked for, but {build.distribution} {build.version} has no {CUDA_PROVIDER}. Run: pip "
            f'uninstall -y {build.distribution} && pip install "q8bert[train-gpu]" (or train with --device cpu)'
        )
    if name != "cuda" and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise ConfigError([f"device {name} would be shared by all processes; give --device cuda, each takes its own"])
    index = int(name.partition(":")[2] or os.environ.get("LOCAL_RANK", "0"))
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= n_devices:
        raise ProviderError(
            f"device cuda:{index} was asked for, but torch {torch.__version__} sees {n_devices} CUDA devices. "
            "`q8bert doctor` says what is missing; --device cpu trains without"
        )
    if engine == "ort":
        preload_cuda_libraries(installed_ort_build().distribution)
    return torch.device("cuda", index)


def check_training_build() -> None:
    """Check that the installed ONNX Runtime builds gradients itself.

    Raises:
        ProviderError: If it does not.
    """
    build = installed_ort_build()
    if not build.builds_gradients:
        raise ProviderError(
            f"--gradients onnxruntime-training needs that package, but {build.distribution} {build.version} is "
            f'installed. Run: pip uninstall -y {build.distribution} && pip install "q8bert[train-ort-training]", on '
            "Python 3.11 or 3.12 (or leave the option out: torch's own gradients run on any ONNX Runtime)"
        )
