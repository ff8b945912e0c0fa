"""Checkpoints: everything a run needs to go on, in safetensors and JSON, written atomically.

A checkpoint is a folder ``checkpoints/step-00000360``:

=========================  ==============================================================
``model.safetensors``      float weights under Hugging Face names
``config.json``            Hugging Face's configuration, and in what units scores are; with the weights,
                           transformers loads the folder
``tokenizer.json``         text → ids
``optimizer.safetensors``  AdamW's moments
``ranges.safetensors``     activation ranges, float64: moving averages, or learned logarithms and their moments
``average.safetensors``    mean of the weights so far, while one is taken
``state.json``             step, scores, the sites and their grids, and the rest; a SHA-256 of each of the others
=========================  ==============================================================

The folder is filled under another name and renamed when complete, so a checkpoint that is there is whole. What happens
to its files later is told by the checksums.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from q8bert.spec.errors import CheckpointError, OutputError
from q8bert.spec.files import partial_of, read_json, remove, sha256_of, write_text
from q8bert.spec.folders import new_folder, remove_folder
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.progress import Progress
from q8bert.training.objectives.target_scale import TargetScale, read_target_scale, write_target_scale
from q8bert.training.quantization.learned_ranges import Ranges, ranges_from_tensors
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.sites import Site
from q8bert.training.runs.checkpoints.checkpoint_state import (
    CheckpointState,
    SiteState,
    damage,
    read_state,
    step_of_folder,
    write_state,
)

__all__ = [
    "Checkpoint",
    "checkpoint_folders",
    "delete_checkpoints",
    "load_checkpoint",
    "prune_checkpoints",
    "save_checkpoint",
]

TOKENIZER_FILE = "tokenizer.json"
_CONFIG_FILE = "config.json"
_WEIGHTS_FILE = "model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_RANGES_FILE = "ranges.safetensors"
_AVERAGE_FILE = "average.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back.

    Attributes:
        path: Its folder.
        weights: Float weights by Hugging Face name.
        optimizer: Moments by ``<parameter>.<moment>``.
        ranges: Of the activations, observed or learned.
        sites: Where activations are quantized, and how they are smoothed; empty for a float run.
        progress: How far the run had come.
        loss_scale: As it stood.
        target_scale: Between scores and what the model computes.
        input_names: Inputs that the model takes.
        pad_token_id: Id that fills shorter rows.
        teacher: SHA-256 of the teacher's outputs that were learned from; empty where none were.
        average: Mean of the weights so far by Hugging Face name; empty where none is taken.
        obey_special_tokens: Whether special tokens that a text spelled out were obeyed.
    """

    path: Path
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    ranges: Ranges
    sites: tuple[Site, ...]
    progress: Progress
    loss_scale: LossScale
    target_scale: TargetScale
    input_names: tuple[str, ...]
    pad_token_id: int
    obey_special_tokens: bool = False
    teacher: str = ""
    average: Mapping[str, Tensor] = field(default_factory=dict)


def checkpoint_folders(run: Path) -> dict[int, Path]:
    """Return the checkpoints of a run by step, oldest first; what is still being written has another name."""
    folders = {}
    for path in (run / "checkpoints").glob("step-*"):
        if (step := step_of_folder(path)) is not None:
            folders[step] = path
    return dict(sorted(folders.items()))


def save_checkpoint(
    run: Path,
    *,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    ranges: Ranges,
    sites: tuple[Site, ...],
    progress: Progress,
    loss_scale: LossScale,
    target_scale: TargetScale,
    input_names: tuple[str, ...],
    pad_token_id: int,
    teacher: str = "",
    average: Mapping[str, Tensor] | None = None,
    obey_special_tokens: bool = False,
    is_last: bool = True,
) -> Path:
    """Write a checkpoint.

    Args:
        run: Folder of the run.
        model: Its parameters are the float weights.
        tokenizer: Text → ids.
        optimizer: AdamW.
        ranges: Of the activations, observed or learned.
        sites: Where activations are quantized, and how they are smoothed.
        progress: How far the run has come; names the folder.
        loss_scale: As it stands.
        target_scale: Between scores and what the model computes.
        input_names: Inputs that the model takes.
        pad_token_id: Id that fills shorter rows.
        teacher: SHA-256 of the teacher's outputs that were learned from.
        average: Mean of the weights so far, where one is taken.
        obey_special_tokens: Whether special tokens that a text spells out are obeyed.
        is_last: Whether the run is over with it.

    Returns:
        The new folder.

    Raises:
        OutputError: If it cannot be written; what was there before is as it was.
    """
    target = run / "checkpoints" / f"step-{progress.step:08d}"
    with _safetensors_errors(target), new_folder(target) as folder:
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        save_file(weights, folder / _WEIGHTS_FILE, metadata={"format": "pt"})
        save_file(_moments(model, optimizer), folder / _OPTIMIZER_FILE)
        save_file(ranges.tensors(), folder / _RANGES_FILE)
        if average is not None:
            save_file(dict(average), folder / _AVERAGE_FILE)
        config = copy.deepcopy(model.config)
        write_target_scale(config, target_scale)
        config.save_pretrained(folder)
        write_text(folder / TOKENIZER_FILE, tokenizer.to_str(pretty=True))
        state = CheckpointState(
            progress=progress,
            loss_scale=loss_scale,
            sites=tuple(
                SiteState(name=site.name, linears=site.linears, smoothing=site.smoothing, zero_point=site.zero_point)
                for site in sites
            ),
            range_count=ranges.count,
            range_decay=ranges.decay if isinstance(ranges, RangeState) else 0.0,
            input_names=input_names,
            pad_token_id=pad_token_id,
            teacher=teacher,
            obey_special_tokens=obey_special_tokens,
            is_last=is_last,
            files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        )
        write_state(folder, state)
    return target


def prune_checkpoints(run: Path, *, keep: int, best_step: int) -> None:
    """Delete old checkpoints, and what a crash left of unfinished ones.

    Args:
        run: Folder of the run.
        keep: How many of the newest stay.
        best_step: Step of one that stays besides.
    """
    folders = checkpoint_folders(run)
    for step in list(folders)[: max(0, len(folders) - keep)]:
        if step != best_step:
            remove_folder(folders[step])
    for path in (run / "checkpoints").glob("*"):
        if partial_of(path) is not None:
            remove(path)


def delete_checkpoints(run: Path) -> None:
    """Delete all checkpoints of a run, and nothing that others put beside them."""
    prune_checkpoints(run, keep=0, best_step=0)
    with suppress(OSError):  # there is none, or others have something in it
        (run / "checkpoints").rmdir()


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: Its folder.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If a file is missing, truncated, exchanged or of another version.
    """
    state = read_state(path)
    return Checkpoint(
        path=path,
        weights=_tensors(path / _WEIGHTS_FILE),
        optimizer=_tensors(path / _OPTIMIZER_FILE),
        ranges=_ranges(path / _RANGES_FILE, state),
        sites=tuple(Site(site.name, site.linears, site.smoothing, zero_point=site.zero_point) for site in state.sites),
        progress=state.progress,
        loss_scale=state.loss_scale,
        target_scale=_target_scale(path / _CONFIG_FILE),
        input_names=state.input_names,
        pad_token_id=state.pad_token_id,
        teacher=state.teacher,
        average=_tensors(path / _AVERAGE_FILE) if _AVERAGE_FILE in state.files else {},
        obey_special_tokens=state.obey_special_tokens,
    )


def _target_scale(path: Path) -> TargetScale:
    try:
        return read_target_scale(read_json(path))
    except (OSError, ValueError) as error:  # a ConfigError is one
        raise CheckpointError(damage(path, error)) from error


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(damage(path, error)) from error


def _ranges(path: Path, state: CheckpointState) -> Ranges:
    found = ranges_from_tensors(_tensors(path), count=state.range_count, decay=state.range_decay)
    if found is None:
        raise CheckpointError(damage(path, "it holds neither moving averages nor learned ranges"))
    return found


@contextmanager
def _safetensors_errors(target: Path) -> Iterator[None]:
    """Turn what safetensors raises where it cannot write into what everything else does."""
    try:
        yield
    except SafetensorError as error:
        raise OutputError(
            f"{target} cannot be written ({error}). Make room and give the same command again; what stood there before "
            "is as it was"
        ) from error


def _moments(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{moment}": value
        for name, parameter in model.named_parameters()
        for moment, value in optimizer.state[parameter].items()
    }
