"""Other forms of a bundle's model, for runtimes that make little of ``model.onnx``: one file each."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = ["CUDA_TARGET", "FLOAT16_TARGET", "MAIN", "TARGETS", "TargetGraph", "target_faults", "target_file"]

MAIN = "main"  # model.onnx
CUDA_TARGET, FLOAT16_TARGET = "cuda", "float16"
TARGETS = (CUDA_TARGET, FLOAT16_TARGET)


@dataclass(frozen=True)
class TargetGraph:
    """One form.

    Attributes:
        file: Name of its file.
        max_abs_diff: Largest difference of a logit between it and ``model.onnx``, both on the CPU, on the rows of the
            export.
        n_rows: How many rows these were.
    """

    file: str
    max_abs_diff: float
    n_rows: int


def target_file(target: str) -> str:
    """Return the name of the file with the graph of a target."""
    return f"model.{target}.onnx"


def target_faults(targets: Mapping[str, TargetGraph], files: Collection[str]) -> list[str]:
    """Say what is wrong with the forms that a manifest names.

    Args:
        targets: The forms, by what they are for.
        files: Names of the bundle's files.

    Returns:
        One sentence a fault.
    """
    return [
        f"targets: {name!r} with {one.file!r} is none of {', '.join(TARGETS)}, each with its own file"
        for name, one in targets.items()
        if name not in TARGETS or one.file != target_file(name) or one.file not in files
    ]
