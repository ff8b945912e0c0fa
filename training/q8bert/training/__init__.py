"""Quantization-aware fine-tuning: ``train(TrainConfig(...))``.

Names are loaded when first asked for, so that the command line can list its commands without importing
torch. Asked for in an environment without the ``train`` extra, they say which pip command brings it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from q8bert.machine.builds import require

if TYPE_CHECKING:
    from q8bert.training.run import train
    from q8bert.training.runs.config import TrainConfig
    from q8bert.training.runs.run_result import RunResult

__all__ = ["RunResult", "TrainConfig", "train"]

_HOMES = {
    "RunResult": "q8bert.training.runs.run_result",
    "TrainConfig": "q8bert.training.runs.config",
    "train": "q8bert.training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("torch", "transformers", "onnx", "safetensors", extra="train", purpose="training")
    return getattr(importlib.import_module(_HOMES[name]), name)
