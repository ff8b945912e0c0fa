"""The float steps of a run, taken from another run that trained the same ones.

Until quantization starts a run is its FP32 twin, so the twin and all runs that differ only in what comes after have
those steps in common. Gone on with from the checkpoint between the two, a run ends as if it had trained them itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

from q8bert.spec.errors import CheckpointError, ConfigError
from q8bert.training.loop.config import EvaluationConfig
from q8bert.training.loop.schedule import Schedule
from q8bert.training.objectives.config import DistillationConfig
from q8bert.training.quantization.config import QuantizationConfig
from q8bert.training.runs.checkpoints.checkpoint import Checkpoint, checkpoint_folders, load_checkpoint
from q8bert.training.runs.checkpoints.resume import check_fits
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.identity.run_record import RunRecord, read_record
from q8bert.training.runs.preparation import Preparation, schedule_of

__all__ = ["later_options", "load_float_steps"]


def later_options() -> set[str]:
    """Return the names of the options that float steps do not depend on, before quantization starts.

    Two of them may still matter, and :func:`load_float_steps` looks: a finished teacher teaches float steps too, and
    another run's own rate for quantized steps may begin before those of this run.
    """
    groups = (QuantizationConfig, EvaluationConfig, DistillationConfig)
    names = {known.name for group in groups for known in fields(group)}
    return names | {"quantized_learning_rate", "quantized_warmup_ratio", "average_weights"}


def load_float_steps(
    run: Path,
    *,
    config: TrainConfig,
    given: Preparation,
    schedule: Schedule,
    asked: RunRecord,
    report: Callable[[str], None],
) -> Checkpoint:
    """Read the checkpoint of another run after the float steps that both have in common.

    Args:
        run: Folder of the other run.
        config: Options of the run that goes on from there.
        given: What it works with.
        schedule: Its schedule.
        asked: What it is started with.
        report: Called with what there is to know.

    Returns:
        The checkpoint, at the step where the run is quantized from; no score so far is its best.

    Raises:
        CheckpointError: If the other run cannot be read, trained other steps, or has no such checkpoint.
        ConfigError: If the run has no float steps.
    """
    step = schedule.quantize_from
    if step == 0:
        raise ConfigError([
            f"float_steps_from is {run}, but quantization starts at step 0, before which there are none; leave it out, "
            "or give a later quantize_from"
        ])  # fmt: skip
    there = read_record(run)
    their_schedule = schedule_of(there.config(run), given.train, n_processes=there.processes)
    if differences := [*_differences(config, there, asked), *_other_steps(their_schedule, schedule)]:
        raise CheckpointError(
            f"the float steps of {run} are not those of this run: it has {', '.join(differences)}. Give the same "
            "options, data and model but for what comes after the float steps, or leave out --float-steps-from"
        )
    if versions := there.other_versions(asked):
        report(f"{run} was begun with other versions, so its float steps may differ in the last bits: {versions}")
    checkpoint = load_checkpoint(_folder_of(run, step, their_schedule))
    check_fits(checkpoint, given.source.model, ())
    report(f"the first {step} steps are those of {run}, in float as they are here")
    progress = replace(checkpoint.progress, best_step=0, best_metric=0.0, evaluations_since_best=0)
    return replace(checkpoint, progress=progress, teacher="")


def _differences(config: TrainConfig, there: RunRecord, asked: RunRecord) -> list[str]:
    if not there.inputs:
        return ["no fingerprints of its data and model, for an earlier release began it"]
    later = later_options()
    if any(options.distillation.finished_teacher for options in (config, there.config(config.output_dir))):
        later -= {known.name for known in fields(DistillationConfig)}
    alike = {name: there.options[name] for name in later if name in there.options}
    return there.differences(replace(asked, options={**asked.options, **alike}))


def _other_steps(theirs: Schedule, ours: Schedule) -> Iterator[str]:
    step = ours.quantize_from
    if theirs.quantizes and theirs.quantize_from < step:
        yield f"quantized steps from step {theirs.quantize_from} on, and this run float ones until step {step}"
    for number in range(step):
        rates = theirs.learning_rate(number), ours.learning_rate(number)
        if rates[0] != rates[1]:
            yield f"another learning rate at step {number + 1} ({rates[0]:.3g}, here {rates[1]:.3g})"
            return


def _folder_of(run: Path, step: int, theirs: Schedule) -> Path:
    folders = checkpoint_folders(run)
    if step in folders:
        return folders[step]
    found = f"it has those of {', '.join(map(str, folders))}" if folders else "it has none yet"
    n_kept = sum(theirs.is_saved(later) for later in range(step, theirs.n_steps + 1))
    remedy = f"Train it again with --keep-checkpoints {n_kept}"
    if not theirs.is_saved(step):
        remedy = f"Train it again with --save-every {step} --keep-checkpoints {theirs.n_steps // step + n_kept}"
    elif max(folders, default=0) < step:
        remedy = f"Give its command again, with --keep-checkpoints {n_kept}, until it has come so far"
    raise CheckpointError(f"{run} has no checkpoint of step {step}, where this run starts ({found}). {remedy}")
