"""Where `gpu_check.py` runs, and what can be had there: ONNX Runtime, and each precision."""

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["CONTENDERS", "PRECISIONS", "Setting", "find_device", "is_not_offered", "obstacle_to_ort"]

PRECISIONS = ("float32", "float16", "bfloat16")
CONTENDERS = ("ort_qat", "torch_qat", "torch_float", "torch_compiled")


@dataclass(frozen=True)
class Setting:
    """What every part is told.

    Attributes:
        device: Where the checks run.
        quick: Whether models and numbers of steps are shrunk to try the check itself.
        folder: Folder for what the parts write, deleted afterwards.
        without_ort: Why ONNX Runtime cannot run on the device; None where it can.
        wait_for_programs: Called before anything is timed: waits for other processes, which build training programs,
            and returns what went wrong in them.
        contenders: Names of those that are timed.
    """

    device: torch.device
    quick: bool
    folder: Path
    without_ort: str | None
    wait_for_programs: Callable[[], Sequence[str]] = tuple
    contenders: tuple[str, ...] = CONTENDERS

    @property
    def graphs(self) -> Path:
        """The folder of built training programs."""
        return self.folder / "graphs"

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)


def find_device(name: str) -> torch.device:
    """Turn ``cpu``, ``cuda`` or ``cuda:N`` into a device that torch has.

    Args:
        name: What was asked for.

    Returns:
        The device; ``cuda`` is the first one.

    Raises:
        ValueError: If the name is none of these, or torch has no such device.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device must be cpu, cuda or cuda:N, got {name!r}")
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= n_devices:
        raise ValueError(
            f"device {name} was asked for, but torch {torch.__version__} sees {n_devices} CUDA devices; "
            "--device cpu tries what needs none"
        )
    return torch.device("cuda", index)


def obstacle_to_ort(device: torch.device) -> str | None:
    """Return why ONNX Runtime cannot train on a device, in a sentence; None where it can."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed"
    from q8bert.spec.errors import Q8BertError
    from q8bert.training.engines.device import resolve_device

    try:
        resolve_device(str(device), engine="ort")
    except (Q8BertError, ImportError, OSError) as error:
        return str(error).splitlines()[0]
    return None


def is_not_offered(error: Exception, precision: str) -> bool:
    """Whether an error says that a precision is not offered, rather than that something is wrong."""
    from q8bert.spec.errors import ConfigError

    return precision != "float32" and (isinstance(error, ConfigError) or "NOT_IMPLEMENTED" in str(error))
