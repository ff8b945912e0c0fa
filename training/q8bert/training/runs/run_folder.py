"""The folder of a run: made, accepted again, or refused; its checkpoints chosen.

=======================  ============================================================================
``run.json``             what the run was started with, see :mod:`~q8bert.training.runs.identity.run_record`
``data.json``            rows of both splits, and what of them is lost
``teacher.safetensors``  what a teacher said of the training rows, where there is one
``log.jsonl``            every event
``tensorboard/``         the same as curves
``checkpoints/``         the newest checkpoints and the best one
``run.lock``             while it is trained
=======================  ============================================================================

What else stands in the folder is its owner's: nothing but these is ever deleted.
"""

from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from q8bert.spec.errors import CheckpointError
from q8bert.spec.files import output_errors
from q8bert.spec.folders import entries
from q8bert.training.quantization.sites import Site
from q8bert.training.runs.checkpoints.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    delete_checkpoints,
    load_checkpoint,
)
from q8bert.training.runs.checkpoints.checkpoint_state import read_state
from q8bert.training.runs.checkpoints.resume import check_fits
from q8bert.training.runs.data_report import delete_data_report
from q8bert.training.runs.identity.run_lock import LOCK_FILE
from q8bert.training.runs.identity.run_record import RUN_FILE, RunRecord, read_record
from q8bert.training.runs.run_log import delete_log
from q8bert.training.runs.teacher_outputs import delete_teacher_outputs

__all__ = ["best_checkpoint", "newest_checkpoint", "prepare_folder"]


def prepare_folder(folder: Path, asked: RunRecord, *, overwrite: bool, report: Callable[[str], None]) -> None:
    """Make a run's folder ready, accept one of the same run, or refuse.

    Args:
        folder: Folder of the run, locked for this process.
        asked: What the run that is wanted is started with.
        overwrite: Delete a run that stands there, whatever it is of.
        report: Called with what there is to know before it goes on.

    Raises:
        CheckpointError: If the folder holds another run, a damaged one, something else, or the model or teacher that
            the new run is started from.
        OutputError: If it cannot be written.
    """
    if (folder / RUN_FILE).exists():
        _refuse_foreign(folder)
        if not overwrite and checkpoint_folders(folder):
            _accept(folder, asked, report)
            return
        _refuse_own_sources(folder, asked)
        delete_checkpoints(folder)
        delete_log(folder)
        delete_data_report(folder)
        delete_teacher_outputs(folder)
    elif strangers := [path.name for path in entries(folder) if path.name != LOCK_FILE]:
        raise CheckpointError(
            f"{folder} is not empty and holds no run of q8bert ({', '.join(strangers[:3])}); give an empty or new "
            "--output-dir"
        )
    asked.write(folder)


def _refuse_own_sources(folder: Path, asked: RunRecord) -> None:
    """Refuse to delete what the run that is wanted needs, now and when it is gone on with."""
    for name in ("model", "teacher"):
        place = Path(str(asked.options.get(name)))
        if folder.resolve() in {place, *place.parents}:
            raise CheckpointError(
                f"--{name} {place} would be deleted with the run in {folder}; give another --output-dir"
            )


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
    best_step = read_state(folders[max(folders)], check_files=False).progress.best_step
    if best_step == 0:
        raise CheckpointError(
            f"{path}: no checkpoint was evaluated yet, or only ones that may not be the best (--quantize-from, "
            "--candidates). Give the same command again to train on"
        )
    if best_step not in folders:
        raise CheckpointError(
            f"{path}: the best checkpoint, of step {best_step}, is missing. Put it back or train anew with --overwrite"
        )
    try:
        return load_checkpoint(folders[best_step])
    except CheckpointError as error:
        raise CheckpointError(f"{error}. It is the best one: put it back, or train again with --overwrite") from error


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


def _refuse_foreign(folder: Path) -> None:
    # other programs have a run.json too, and one that was cut short is still ours
    with output_errors(folder / RUN_FILE):
        is_ours = (folder / RUN_FILE).is_file() and b'"run_version"' in (folder / RUN_FILE).read_bytes()
    if not is_ours and not checkpoint_folders(folder):
        raise CheckpointError(f"{folder / RUN_FILE} is none of q8bert's; move it away, or give another --output-dir")


def _accept(folder: Path, asked: RunRecord, report: Callable[[str], None]) -> None:
    there = read_record(folder)
    if differences := there.differences(asked):
        raise CheckpointError(
            f"{folder} holds a run with {', '.join(differences)}. Give the same options, data and model to go on with "
            "it, another --output-dir, or --overwrite to delete it"
        )
    if not there.inputs:
        report("this run was started by an earlier release: that data and model are still the same cannot be checked")
    if versions := there.other_versions(asked):
        report(f"going on with other versions, so not bit for bit as one would have gone on with the old: {versions}")
    moved = there.at_places_of(asked)
    if moved != there:
        moved.write(folder)
