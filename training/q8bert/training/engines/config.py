"""Who computes gradients, where, and in which precision."""

from dataclasses import dataclass
from pathlib import Path

from q8bert.training.options import above, at_least, check_options, one_of, option

__all__ = ["ENGINES", "GRADIENTS", "PRECISIONS", "ExecutionConfig"]

ENGINES = ("ort", "torch")
GRADIENTS = ("torch", "onnxruntime-training")
PRECISIONS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Options of how a step is computed; each field says what it means.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    engine: str = option(default="ort", check=one_of(ENGINES), help="ort (ONNX Runtime) or torch.")
    gradients: str = option(
        default="torch",
        check=one_of(GRADIENTS),
        help="Who writes the backward pass that ort runs: torch, or onnxruntime-training where that is installed.",
    )
    device: str = option(default="cpu", help="cpu, cuda or cuda:N; with several processes, cuda is each one's own.")
    # decides the order of float sums, and nothing else
    threads: int = option(
        default=0, check=at_least(0), help="CPU threads of each process. 0: the engine's choice.", decides_results=False
    )
    precision: str = option(
        default="float32",
        check=one_of(PRECISIONS),
        help="float32, float16 (with dynamic loss scaling) or bfloat16 (on a CPU with --engine torch).",
    )
    loss_scale: float = option(
        default=65536.0,
        check=above(0),
        help="What the loss is multiplied by at first in float16, so that small gradients are not lost.",
    )
    loss_scale_factor: float = option(
        default=2.0,
        check=above(1),
        help="Divides the loss scale where a gradient overflows, multiplies it after loss_scale_window.",
    )
    loss_scale_window: int = option(
        default=1000, check=at_least(1), help="Steps without overflow after which the loss scale rises."
    )
    cache_dir: Path | None = option(
        default=None, help="Folder of built training graphs. Default: the user's cache folder.", decides_results=False
    )

    def __post_init__(self) -> None:
        """Check every option."""
        conflicts = []
        if self.engine == "ort" and self.precision == "bfloat16" and self.device == "cpu":
            conflicts.append(
                "on the CPU, ONNX Runtime has no kernels for bfloat16; train with --engine torch, or on a GPU"
            )
        if self.gradients != "torch" and self.engine != "ort":
            conflicts.append(f"gradients {self.gradients} are for the engine ort; the engine torch has its own")
        if self.gradients != "torch" and self.precision != "float32":
            conflicts.append(f"gradients {self.gradients} are float32 alone, got precision {self.precision}")
        check_options(self, conflicts=conflicts)
