"""``teacher.safetensors``: what a teacher said of the training rows, kept with the run that learns from it.

One tensor, ``outputs``: float64 ``(n_rows, n_outputs)``, a row each in the order of the training split; logits, or
scores in the units of the data. Every checkpoint that learned from it names it by its checksum, so a run never goes on
with others. Metadata say of which rows and of which teacher it is.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from q8bert.spec.errors import CheckpointError
from q8bert.spec.files import remove, write_bytes

__all__ = [
    "TEACHER_FILE",
    "checksum_of_outputs",
    "delete_teacher_outputs",
    "read_teacher_outputs",
    "write_teacher_outputs",
]

TEACHER_FILE = "teacher.safetensors"
_NAME = "outputs"


def write_teacher_outputs(run: Path, outputs: Tensor, *, about: Mapping[str, str]) -> None:
    """Write what a teacher said into a run's folder.

    Args:
        run: The folder.
        outputs: Float64 ``(n_rows, n_outputs)``.
        about: Of which rows and of which teacher it is.

    Raises:
        OutputError: If it cannot be written.
    """
    write_bytes(run / TEACHER_FILE, save({_NAME: outputs.contiguous()}, metadata=dict(about)))


def read_teacher_outputs(run: Path, *, checksum: str, remedy: str) -> Tensor:
    """Read what a teacher said of the training rows.

    Args:
        run: The run's folder.
        checksum: What the checkpoint that is gone on from has learned from.
        remedy: What to do where the file is not that, as a sentence without its full stop.

    Returns:
        Float64 ``(n_rows, n_outputs)``.

    Raises:
        CheckpointError: If it is missing, damaged, or not what was learned from.
    """
    path = run / TEACHER_FILE
    try:
        outputs = load(path.read_bytes())[_NAME]
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing, from which this run learned so far. {remedy}") from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error}). {remedy}") from error
    found = checksum_of_outputs(outputs)
    if found != checksum:
        raise CheckpointError(
            f"{path} is not the file that this run learned from so far: its outputs have the SHA-256 {found[:12]}… "
            f"instead of {checksum[:12]}…. {remedy}"
        )
    return outputs


def checksum_of_outputs(outputs: Tensor) -> str:
    """Return the SHA-256 of outputs in hexadecimal: of type, shape and numbers, whatever the file around them."""
    described = f"{outputs.dtype} {tuple(outputs.shape)}\n".encode()
    values = outputs.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(described + values).hexdigest()


def delete_teacher_outputs(run: Path) -> None:
    """Delete what a teacher said from a run's folder."""
    remove(run / TEACHER_FILE)
