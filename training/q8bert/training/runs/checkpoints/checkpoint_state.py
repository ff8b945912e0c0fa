"""``state.json`` of a checkpoint: what is no tensor, and the checksums of the other files."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from q8bert.spec.decode import decode
from q8bert.spec.errors import CheckpointError, ConfigError
from q8bert.spec.files import LFS_POINTER, read_json, sha256_of, write_json
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.progress import Progress
from q8bert.training.quantization.zero_points import LARGEST_ZERO_POINT

__all__ = ["STATE_FILE", "CheckpointState", "SiteState", "damage", "read_state", "step_of_folder", "write_state"]

CHECKPOINT_VERSION = 4
_READABLE_VERSIONS = (3, 4)  # version 3 had no zero points: all were 0
STATE_FILE = "state.json"
_FOLDER_PATTERN = re.compile(r"step-(\d{8})")
_LARGEST_EXPONENT = 126  # of a power of two that float32 has, and its inverse too


@dataclass(frozen=True, kw_only=True)
class SiteState:
    """What is kept of a site; see :class:`~q8bert.training.quantization.sites.Site`."""

    name: str
    linears: tuple[str, ...]
    smoothing: tuple[int, ...]
    zero_point: int = 0


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """What ``state.json`` holds.

    Attributes:
        checkpoint_version: Version of the file.
        progress: How far the run had come.
        loss_scale: As it stood.
        sites: Where activations are quantized, how they are smoothed, and their zero points; empty for a float run.
        range_count: Observations of the ranges so far; steps, of learned ones.
        range_decay: Weight of the past in them; 0 for learned ones.
        input_names: Inputs that the model takes.
        pad_token_id: Id that fills shorter rows.
        teacher: SHA-256 of the teacher's outputs that were learned from; empty where none were.
        obey_special_tokens: Whether special tokens that a text spelled out were obeyed; so by earlier releases.
        is_last: Whether the run was over with it; so for one of an earlier release, which does not say.
        files: SHA-256 of every other file of the checkpoint; none in one of an earlier release.
    """

    checkpoint_version: int = CHECKPOINT_VERSION
    progress: Progress
    loss_scale: LossScale
    sites: tuple[SiteState, ...]
    range_count: int
    range_decay: float
    input_names: tuple[str, ...]
    pad_token_id: int
    teacher: str = ""
    obey_special_tokens: bool = True
    is_last: bool = True
    files: Mapping[str, str] = field(default_factory=dict)


def step_of_folder(path: Path) -> int | None:
    """Return the step that a checkpoint's folder is named by; None for what is no checkpoint."""
    match = _FOLDER_PATTERN.fullmatch(path.name)
    return int(match[1]) if match else None


def write_state(folder: Path, state: CheckpointState) -> None:
    """Write the state into a checkpoint's folder, after all other files."""
    write_json(folder / STATE_FILE, asdict(state))


def read_state(folder: Path, *, check_files: bool = True) -> CheckpointState:
    """Read the state of a checkpoint.

    Args:
        folder: Folder of the checkpoint.
        check_files: Whether to compare the other files with their checksums.

    Returns:
        The state.

    Raises:
        CheckpointError: If it cannot be read, is of another version, or a file is not the one that was written.
    """
    path = folder / STATE_FILE
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(damage(path, error)) from error
    version = content.get("checkpoint_version")
    if version not in _READABLE_VERSIONS:
        raise CheckpointError(
            f"checkpoint {folder} is of version {version!r}; this release of q8bert reads versions "
            f"{' and '.join(map(str, _READABLE_VERSIONS))}"
        )
    try:
        state = decode(CheckpointState, content, ignore_unknown=True)
    except ConfigError as error:
        raise CheckpointError(damage(path, "; ".join(error.faults))) from error
    if faults := _faults(state, step_of_folder(folder)):
        raise CheckpointError(damage(path, "; ".join(faults)))
    if check_files:
        _check_files(folder, state.files)
    return state


def damage(file: Path, cause: Exception | str) -> str:
    """Say which file of which checkpoint cannot be used, and why.

    Args:
        file: The file that was read.
        cause: What was raised, or what is wrong in words.

    Returns:
        The message.
    """
    why = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
    if _is_lfs_pointer(file):
        why = "it is a pointer of Git LFS in place of the file; `git lfs pull` fetches the file"
    return f"checkpoint {file.parent} is incomplete or damaged: {file.name} cannot be used ({why})"


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, expected in files.items():
        try:
            found = sha256_of(folder / name)
        except (OSError, ValueError) as error:
            raise CheckpointError(damage(folder / name, error)) from error
        if found != expected:
            cause = f"not the file that was written: SHA-256 {found[:12]}… instead of {expected[:12]}…"
            raise CheckpointError(damage(folder / name, cause))


def _is_lfs_pointer(file: Path) -> bool:
    with suppress(OSError, ValueError), file.open("rb") as content:
        return content.read(len(LFS_POINTER)) == LFS_POINTER
    return False


def _faults(state: CheckpointState, named: int | None) -> list[str]:
    progress, scale = state.progress, state.loss_scale
    exponents = [abs(exponent) for site in state.sites for exponent in site.smoothing]
    odd = [site.zero_point for site in state.sites if site.zero_point % 2 or abs(site.zero_point) > LARGEST_ZERO_POINT]
    checks = (
        (named in {None, progress.step}, f"it is of step {progress.step}, and stands in the folder of another"),
        (0 <= progress.best_step <= progress.step, f"best_step is {progress.best_step}"),
        (0 <= state.range_count <= 2**53, f"range_count is {state.range_count}"),
        (0 <= state.range_decay < 1, f"range_decay is {state.range_decay}"),
        (scale.scale > 0 and scale.factor > 0, f"loss_scale is {scale.scale}, its factor {scale.factor}"),
        (state.pad_token_id >= 0, f"pad_token_id is {state.pad_token_id}"),
        (max(exponents, default=0) <= _LARGEST_EXPONENT, f"smoothing has exponents up to {max(exponents, default=0)}"),
        (not odd, f"zero points are {odd[:3]}, not even numbers from -{LARGEST_ZERO_POINT} to {LARGEST_ZERO_POINT}"),
    )
    return [fault for holds, fault in checks if not holds]
