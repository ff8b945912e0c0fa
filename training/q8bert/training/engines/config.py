"""Who computes gradients, where, and in which precision."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from q8bert.spec.checked import fit_fields
from q8bert.spec.kinds import Check, above, at_least, one_of
from q8bert.training.options import option

__all__ = ["ENGINES", "GRADIENTS", "PRECISIONS", "ExecutionConfig"]

ENGINES = ("ort", "torch")
GRADIENTS = ("torch", "onnxruntime-training")
PRECISIONS = ("float32", "float16", "bfloat16")

_DEVICE = Check("cpu, cuda or cuda:N", lambda name: re.fullmatch(r"cpu|cuda(:\d+)?", name) is not None)


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Options of how a step is computed; each field says what it means.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    engine: Annotated[str, one_of(ENGINES)] = option(default="ort", help="ort (ONNX Runtime) or torch.")
    gradients: Annotated[str, one_of(GRADIENTS)] = option(
        default="torch",
        help="Who writes the backward pass that ort runs: torch, or onnxruntime-training where that is installed.",
    )
    device: Annotated[str, _DEVICE] = option(
        default="cpu", help="cpu, cuda or cuda:N; with several processes, cuda is each one's own."
    )
    # decides the order of float sums, and nothing else
    threads: Annotated[int, at_least(0)] = option(
        default=0, help="CPU threads of each process. 0: those of the cores that it may use.", decides_results=False
    )
    precision: Annotated[str, one_of(PRECISIONS)] = option(
        default="float32",
        help="float32, float16 (with dynamic loss scaling) or bfloat16 (on a CPU with --engine torch).",
    )
    loss_scale: Annotated[float, above(0)] = option(
        default=65536.0,
        help="What the loss is multiplied by at first in float16, so that small gradients are not lost.",
    )
    loss_scale_factor: Annotated[float, above(1)] = option(
        default=2.0,
        help="Divides the loss scale where a gradient overflows, multiplies it after --loss-scale-window.",
    )
    loss_scale_window: Annotated[int, at_least(1)] = option(
        default=1000, help="Steps without overflow after which the loss scale rises."
    )
    cache_dir: Path | None = option(
        default=None, help="Folder of built training graphs. Default: the user's cache folder.", decides_results=False
    )

    def __post_init__(self) -> None:
        """Check every option."""
        fit_fields(self, self._conflicts)

    def _conflicts(self) -> list[str]:
        conflicts = []
        if self.engine == "ort" and self.precision == "bfloat16" and self.device == "cpu":
            conflicts.append(
                "on the CPU, ONNX Runtime has no kernels for bfloat16; train with --engine torch, or on a GPU"
            )
        if self.gradients != "torch" and self.engine != "ort":
            conflicts.append(f"gradients {self.gradients} are for the engine ort; the engine torch has its own")
        if self.gradients != "torch" and self.precision != "float32":
            conflicts.append(f"gradients {self.gradients} are float32 alone, got precision {self.precision}")
        if self.precision != "float16":
            conflicts += [
                f"{known.name} ({getattr(self, known.name)}) is for float16, got precision {self.precision}"
                for known in fields(self)
                if known.name.startswith("loss_scale") and getattr(self, known.name) != known.default
            ]
        return conflicts
