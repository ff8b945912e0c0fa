"""The errors that q8bert raises on purpose, all under :class:`Q8BertError`.

Each child also inherits the builtin that a caller would expect, so that
``except ValueError`` keeps working. A message says what is wrong, what was given,
what is allowed and what to do. The command line turns :class:`ParityError` into exit code 1, a
gate that failed, and every other one into exit code 2.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

__all__ = [
    "BundleError",
    "CalibrationError",
    "CheckpointError",
    "ClosedError",
    "ConfigError",
    "DeadlineError",
    "ExportError",
    "ForkedError",
    "InputError",
    "JobError",
    "MissingExtraError",
    "ModelError",
    "OrtBuildError",
    "OutputError",
    "ParityError",
    "ProviderError",
    "Q8BertError",
    "QueueFullError",
    "WorkerError",
]


class Q8BertError(Exception):
    """Anything that q8bert refuses, with a message meant for the user."""


class ConfigError(Q8BertError, ValueError):
    """Options that do not fit; all faults are reported together."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.faults,)


class InputError(Q8BertError, ValueError):
    """A data file, row or text that cannot be read as what it should be."""


class OutputError(Q8BertError, OSError):
    """A file or folder that cannot be written: no space, no permission, no such place."""


class CalibrationError(Q8BertError, ValueError):
    """A range or scale that no integer grid can have (zero, negative, not finite)."""


class CheckpointError(Q8BertError, ValueError):
    """A run folder or checkpoint that is incomplete or does not fit the model."""


class JobError(Q8BertError, RuntimeError):
    """Processes that train together and cannot go on, because one of them ended or sees something else."""


class ModelError(Q8BertError, ValueError):
    """A model that cannot be fully quantized, or cannot be found."""


class ExportError(Q8BertError, RuntimeError):
    """A graph that could not be made, naming the step that failed."""


class ParityError(ExportError):
    """The exported model and the simulation differ by more than the tolerance."""

    def __init__(self, message: str, *, max_abs_diff: float, atol: float) -> None:
        self.max_abs_diff = max_abs_diff
        self.atol = atol
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), max_abs_diff=self.max_abs_diff, atol=self.atol), self.args


class BundleError(Q8BertError, ValueError):
    """A bundle whose files, schema or checksums are not as its manifest says."""


class ProviderError(Q8BertError, RuntimeError):
    """An execution provider or engine that was asked for and cannot be had."""


class OrtBuildError(Q8BertError, RuntimeError):
    """An environment with no ONNX Runtime build, or with two that overwrite each other."""


class MissingExtraError(Q8BertError, ImportError):
    """A package that belongs to an extra which is not installed."""


class ForkedError(Q8BertError, RuntimeError):
    """Something loaded that a forked process cannot use, because the threads of it stayed behind."""


class QueueFullError(Q8BertError, RuntimeError):
    """A request that found the queue of a service full; the caller may come again later."""


class DeadlineError(Q8BertError, TimeoutError):
    """A request that was not answered by its deadline."""


class ClosedError(Q8BertError, RuntimeError):
    """A request to a service that is not open, or is closing."""


class WorkerError(Q8BertError, RuntimeError):
    """A request that a service could not compute because something unforeseen happened; its cause says what."""
