"""Checkpoints: everything a run needs to go on, in safetensors and JSON, written atomically.

A checkpoint is a folder ``checkpoints/step-00000360``:

=========================  ==============================================================
``model.safetensors``      float weights under Hugging Face names
``config.json``            Hugging Face's configuration, and in what units scores are; with the weights,
                           transformers loads the folder
``tokenizer.json``         text → ids
``optimizer.safetensors``  AdamW's moments
``ranges.safetensors``     moving averages of the activation ranges, float64
``state.json``             step, scores, the sites with their smoothing, and the rest
=========================  ==============================================================

The folder is filled under another name and renamed when complete, so a checkpoint that is there is whole.
"""

import copy
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from q8bert.spec.errors import CheckpointError
from q8bert.spec.files import PARTIAL, new_folder, read_json, remove_folder, write_json
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.progress import Progress
from q8bert.training.objectives.target_scale import TargetScale, read_target_scale, write_target_scale
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.sites import Site

__all__ = [
    "Checkpoint",
    "checkpoint_folders",
    "load_checkpoint",
    "prune_checkpoints",
    "save_checkpoint",
]

CHECKPOINT_VERSION = 3
STATE_FILE = "state.json"
TOKENIZER_FILE = "tokenizer.json"
_CONFIG_FILE = "config.json"
_WEIGHTS_FILE = "model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_RANGES_FILE = "ranges.safetensors"
_FOLDER_PATTERN = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back.

    Attributes:
        path: Its folder.
        weights: Float weights by Hugging Face name.
        optimizer: Moments by ``<parameter>.<moment>``.
        ranges: Moving averages of the ranges.
        sites: Where activations are quantized, and how they are smoothed; empty for a float run.
        progress: How far the run had come.
        loss_scale: As it stood.
        target_scale: Between scores and what the model computes.
        input_names: Inputs that the model takes.
        pad_token_id: Id that fills shorter rows.
    """

    path: Path
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    ranges: RangeState
    sites: tuple[Site, ...]
    progress: Progress
    loss_scale: LossScale
    target_scale: TargetScale
    input_names: tuple[str, ...]
    pad_token_id: int


def checkpoint_folders(run: Path) -> dict[int, Path]:
    """Return the checkpoints of a run by step, oldest first; what is still being written has another name."""
    folders = {}
    for path in (run / "checkpoints").glob("step-*"):
        if match := _FOLDER_PATTERN.fullmatch(path.name):
            folders[int(match[1])] = path
    return dict(sorted(folders.items()))


def save_checkpoint(
    run: Path,
    *,
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    ranges: RangeState,
    sites: tuple[Site, ...],
    progress: Progress,
    loss_scale: LossScale,
    target_scale: TargetScale,
    input_names: tuple[str, ...],
    pad_token_id: int,
) -> Path:
    """Write a checkpoint.

    Args:
        run: Folder of the run.
        model: Its parameters are the float weights.
        tokenizer: Text → ids.
        optimizer: AdamW.
        ranges: Moving averages of the ranges.
        sites: Where activations are quantized, and how they are smoothed.
        progress: How far the run has come; names the folder.
        loss_scale: As it stands.
        target_scale: Between scores and what the model computes.
        input_names: Inputs that the model takes.
        pad_token_id: Id that fills shorter rows.

    Returns:
        The new folder.
    """
    target = run / "checkpoints" / f"step-{progress.step:08d}"
    with new_folder(target) as folder:
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        save_file(weights, folder / _WEIGHTS_FILE, metadata={"format": "pt"})
        save_file(_moments(model, optimizer), folder / _OPTIMIZER_FILE)
        save_file({"average": ranges.average}, folder / _RANGES_FILE)
        config = copy.deepcopy(model.config)
        write_target_scale(config, target_scale)
        config.save_pretrained(folder)
        tokenizer.save(str(folder / TOKENIZER_FILE))
        state = {
            "checkpoint_version": CHECKPOINT_VERSION,
            "progress": asdict(progress),
            "loss_scale": asdict(loss_scale),
            "sites": [{"name": site.name, "linears": site.linears, "smoothing": site.smoothing} for site in sites],
            "range_count": ranges.count,
            "range_decay": ranges.decay,
            "input_names": list(input_names),
            "pad_token_id": pad_token_id,
        }
        write_json(folder / STATE_FILE, state)
    return target


def prune_checkpoints(run: Path, *, keep: int, best_step: int) -> None:
    """Delete old checkpoints, and what a crash left of unfinished ones.

    Args:
        run: Folder of the run.
        keep: How many of the newest stay.
        best_step: Step of one that stays besides.
    """
    folders = checkpoint_folders(run)
    for step in list(folders)[:-keep]:
        if step != best_step:
            remove_folder(folders[step])
    for unfinished in (run / "checkpoints").glob(f"*{PARTIAL}"):
        shutil.rmtree(unfinished)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: Its folder.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If a file is missing, truncated or of another version.
    """
    try:
        state: dict[str, Any] = read_json(path / STATE_FILE)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} is incomplete or damaged ({type(error).__name__}: {error})"
        ) from error
    _check_version(state, path)
    try:
        average = load_file(path / _RANGES_FILE)["average"]
        return Checkpoint(
            path=path,
            weights=load_file(path / _WEIGHTS_FILE),
            optimizer=load_file(path / _OPTIMIZER_FILE),
            ranges=RangeState(average, state["range_count"], state["range_decay"]),
            sites=tuple(
                Site(site["name"], tuple(site["linears"]), tuple(site["smoothing"])) for site in state["sites"]
            ),
            progress=Progress(**state["progress"]),
            loss_scale=LossScale(**state["loss_scale"]),
            target_scale=read_target_scale(read_json(path / _CONFIG_FILE)),
            input_names=tuple(state["input_names"]),
            pad_token_id=state["pad_token_id"],
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is incomplete or damaged ({type(error).__name__}: {error})"
        ) from error


def _check_version(state: Mapping[str, Any], path: Path) -> None:
    version = state.get("checkpoint_version")
    if version != CHECKPOINT_VERSION:
        raise CheckpointError(
            f"checkpoint {path} is of version {version!r}; this release of q8bert reads version {CHECKPOINT_VERSION}"
        )


def _moments(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{moment}": value
        for name, parameter in model.named_parameters()
        for moment, value in optimizer.state[parameter].items()
    }
