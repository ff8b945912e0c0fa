"""What can be chosen of a model repository: who runs the model, where, in which batches, and what may wait."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from q8bert.spec.checked import fit_fields
from q8bert.spec.kinds import at_least, one_of

__all__ = ["BACKENDS", "CPU", "DEVICES", "GPU", "ONNX_RUNTIME_BACKEND", "ON_LONG", "PYTHON_BACKEND", "TritonOptions"]

ONNX_RUNTIME_BACKEND, PYTHON_BACKEND = "onnxruntime", "python"
BACKENDS = (ONNX_RUNTIME_BACKEND, PYTHON_BACKEND)
CPU, GPU = "cpu", "gpu"
DEVICES = (CPU, GPU)
ON_LONG = ("truncate", "refuse")
# what a field of Triton's configuration holds: an int32
_LARGEST = 2**31 - 1

Count = Annotated[int, at_least(1)]


@dataclass(frozen=True, kw_only=True)
class TritonOptions:
    """How Triton is to run a bundle; checked once, every fault reported.

    Attributes:
        backend: What runs the model: ``onnxruntime``, Triton's own backend, or ``python``, our runtime in Triton's
            Python backend.
        device: ``cpu`` or ``gpu``; tokenizer and labels always run on the CPU.
        instances: Copies of the model that run at the same time; on GPUs, on each of them.
        tokenizers: Copies of the tokenizer.
        threads: CPU threads that share one operator, of each instance of the model.
        max_batch_size: Most rows of a request, and of a batch that Triton makes of several.
        max_delay_us: How long a request waits for others while an instance is idle, in microseconds. Requests that find
            all instances busy gather anyway.
        max_queue: Most requests that wait for the tokenizer, and for the model; others are refused at once.
        timeout_ms: How long a request may wait in one of these queues; it is refused then. A request may ask for less.
        on_long: Rows longer than the bundle's maximum length: ``truncate`` or ``refuse`` them.
        max_characters: Most characters of a row, both texts together.
        keep: Versions of a model that stay loaded, the newest ones.

    Raises:
        ConfigError: If a value is of the wrong kind or out of range.
    """

    backend: Annotated[str, one_of(BACKENDS)] = ONNX_RUNTIME_BACKEND
    device: Annotated[str, one_of(DEVICES)] = CPU
    instances: Count = 1
    tokenizers: Count = 1
    threads: Count = 1
    max_batch_size: Count = 32
    max_delay_us: Annotated[int, at_least(0)] = 0
    max_queue: Count = 1024
    timeout_ms: Count = 30_000
    on_long: Annotated[str, one_of(ON_LONG)] = "truncate"
    max_characters: Count = 100_000
    keep: Annotated[int, at_least(2)] = 2

    def __post_init__(self) -> None:
        """Check every value."""
        fit_fields(self, self._conflicts)

    def _conflicts(self) -> Sequence[str]:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return [
            f"{name} must be at most {_LARGEST}, got {value}" for name, value in numbers.items() if value > _LARGEST
        ]
