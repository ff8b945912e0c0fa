"""The folder of a run: made, accepted again, or refused; read back.

==================  ==========================================================
``run.json``        options that decide the results, and versions
``data.json``       rows of both splits, and what of them is lost
``log.jsonl``       every event
``tensorboard/``    the same as curves
``checkpoints/``    the newest checkpoints and the best one
==================  ==========================================================
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from q8bert.spec.errors import CheckpointError
from q8bert.spec.files import PARTIAL, read_json, write_json
from q8bert.training.quantization.sites import Site
from q8bert.training.runs.checkpoint import Checkpoint, checkpoint_folders, load_checkpoint
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.resume import check_fits
from q8bert.training.versions import library_versions

__all__ = ["RUN_FILE", "best_checkpoint", "newest_checkpoint", "prepare_folder", "read_run"]

RUN_FILE = "run.json"
RUN_VERSION = 4


def prepare_folder(config: TrainConfig, *, n_processes: int, overwrite: bool) -> None:
    """Make the run's folder, accept one with the same options, or refuse.

    Args:
        config: The options of the run that is wanted.
        n_processes: Processes that train together; they decide how many rows a step has.
        overwrite: Delete a run that stands there, whatever its options.

    Raises:
        CheckpointError: If the folder holds a run of other options, or something else.
    """
    folder = config.output_dir
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"--output-dir {folder} is a file; give a folder")
    if overwrite and (folder / RUN_FILE).is_file():
        _empty(folder)
    if (folder / RUN_FILE).is_file():
        options = read_run(folder).identity()
        there = {"processes": read_json(folder / RUN_FILE).get("processes"), **options}
        differences = _differences(there, {"processes": n_processes, **config.identity()})
        if differences:
            raise CheckpointError(
                f"{folder} holds a run with other options ({'; '.join(differences)}). Give another --output-dir, the "
                "same options to go on with it, or --overwrite to delete it"
            )
        return
    if folder.exists() and any(not path.name.endswith(PARTIAL) for path in folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty and holds no run of q8bert; give an empty or new --output-dir")
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "run_version": RUN_VERSION,
        "options": config.identity(),
        "processes": n_processes,
        "versions": library_versions(),
    }
    write_json(folder / RUN_FILE, content)


def read_run(path: Path) -> TrainConfig:
    """Read the options of a run from its folder.

    Args:
        path: Folder of the run.

    Returns:
        Its options.

    Raises:
        CheckpointError: If it is no run.
    """
    try:
        content = read_json(path / RUN_FILE)
        options = content["options"]
        version = content["run_version"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not the folder of a training run ({type(error).__name__}: {error}). "
            "Make one with `q8bert train`"
        ) from error
    if version != RUN_VERSION or not isinstance(options, dict):
        raise CheckpointError(f"{path} is a run of version {version!r}; this release reads {RUN_VERSION}")
    return TrainConfig.from_identity(options, output_dir=path)


def newest_checkpoint(path: Path, model: PreTrainedModel, sites: tuple[Site, ...]) -> Checkpoint | None:
    """Read the checkpoint from which a run goes on.

    Args:
        path: Folder of the run.
        model: What is to be trained on.
        sites: Where its activations are quantized.

    Returns:
        The newest checkpoint; None when there is none yet.

    Raises:
        CheckpointError: If it is damaged, of another version or of another model; the message offers an older one
            that is whole.
    """
    folders = list(checkpoint_folders(path).items())
    if not folders:
        return None
    try:
        return _usable(folders[-1][1], model, sites)
    except CheckpointError as error:
        whole = next((step for step, folder in reversed(folders[:-1]) if _is_whole(folder, model, sites)), None)
        remedy = (
            "No older one is whole; start again with --overwrite"
            if whole is None
            else f"The one of step {whole} is whole: delete the folder {folders[-1][1]} and give the same command to "
            "go on from there, or start again with --overwrite"
        )
        raise CheckpointError(f"{error}. {remedy}") from error


def best_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint with the best dev score of a run.

    Args:
        path: Folder of the run.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If the run has none yet, or it is damaged.
    """
    folders = checkpoint_folders(path)
    if not folders:
        raise CheckpointError(f"{path} has no checkpoint yet; train it on until the first one is saved")
    best_step = load_checkpoint(folders[max(folders)]).progress.best_step
    if best_step == 0:
        raise CheckpointError(
            f"{path}: no checkpoint was evaluated yet, or only before quantization starts (--quantize-from). Give the "
            "same command again to train on"
        )
    if best_step not in folders:
        raise CheckpointError(f"{path}: the best checkpoint, of step {best_step}, is missing")
    return load_checkpoint(folders[best_step])


def _usable(folder: Path, model: PreTrainedModel, sites: tuple[Site, ...]) -> Checkpoint:
    checkpoint = load_checkpoint(folder)
    check_fits(checkpoint, model, sites)
    return checkpoint


def _is_whole(folder: Path, model: PreTrainedModel, sites: tuple[Site, ...]) -> bool:
    try:
        _usable(folder, model, sites)
    except CheckpointError:
        return False
    return True


def _empty(folder: Path) -> None:
    # the file that makes it a run goes last: a crash on the way leaves a run that can be overwritten again
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != RUN_FILE:
            path.unlink()
    (folder / RUN_FILE).unlink()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {old.get(name)!r} there, {new.get(name)!r} asked"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name)
    ]
