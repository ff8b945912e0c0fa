"""``train(TrainConfig)``: options → a trained run, resumed where one was interrupted.

A quantized run has two phases. Until quantization starts it is its FP32 twin, on the same program. Then calibration
looks at the model as it is by now, decides what is smoothed and where ranges start, and the second phase goes on with
the same optimizer on a program with fake quantization.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from q8bert.spec.checked import checked
from q8bert.spec.errors import CheckpointError, ConfigError
from q8bert.training.engines.device import resolve_device
from q8bert.training.engines.threads import torch_threads
from q8bert.training.loop.averaging import WeightAverage
from q8bert.training.loop.config import OptimizationConfig
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.optimization import adamw
from q8bert.training.loop.processes import Processes, joined_processes
from q8bert.training.loop.progress import Progress
from q8bert.training.loop.schedule import Schedule
from q8bert.training.loop.step import TrainingState
from q8bert.training.phases import Setting, train_phases
from q8bert.training.quantization.learned_ranges import LearnedRanges
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.runs.checkpoints.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    prune_checkpoints,
    save_checkpoint,
)
from q8bert.training.runs.checkpoints.resume import restore, restore_average
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.data_report import write_data_report
from q8bert.training.runs.float_steps import load_float_steps
from q8bert.training.runs.identity.run_lock import run_lock
from q8bert.training.runs.identity.run_record import RUN_FILE, RunRecord
from q8bert.training.runs.preparation import Preparation, prepare, schedule_of
from q8bert.training.runs.run_folder import best_checkpoint, newest_checkpoint, prepare_folder
from q8bert.training.runs.run_log import RunLog
from q8bert.training.runs.run_result import RunResult
from q8bert.training.teachers.finished import load_teacher
from q8bert.training.teachers.teacher import Teacher

__all__ = ["train"]

Report = Callable[[str], None]
ShowStep = Callable[[int, int, float], None]


@checked
def train(
    config: TrainConfig,
    *,
    overwrite: bool = False,
    report: Report = lambda _: None,
    show_step: ShowStep = lambda *_: None,
) -> RunResult:
    """Fine-tune a classifier as the options say, or go on with a run that was interrupted.

    Args:
        config: The options.
        overwrite: Delete a run of other options that stands in the output folder.
        report: Called with a sentence at every stage.
        show_step: Called with step, number of steps and loss after each step.

    Returns:
        The scores of the best checkpoint.

    Raises:
        CheckpointError: If the output folder holds something else, a damaged checkpoint, or is being trained already.
        InputError: If the data cannot be read.
        ModelError: If the model cannot be found or fully quantized.
        OutputError: If the output folder cannot be written.
        ProviderError: If the engine cannot be had.
    """
    execution = config.execution
    device = resolve_device(execution.device, engine=execution.engine, gradients=execution.gradients)
    with joined_processes(device) as processes, torch_threads(execution.threads) as threads:
        if not processes.is_first:
            report, show_step = (lambda _: None), (lambda *_: None)
        with run_lock(config.output_dir, report) if processes.is_first else nullcontext():
            given = prepare(config, device, report)
            schedule = schedule_of(config, given.train, n_processes=processes.count)
            _refuse_ignorant_twin(config, given, schedule)
            given, teacher = _with_teacher(config, given, device, report)
            record = RunRecord.of(config, given.inputs, n_processes=processes.count)
            start = None
            if config.float_steps_from is not None and (overwrite or not checkpoint_folders(config.output_dir)):
                start = load_float_steps(
                    config.float_steps_from, config=config, given=given, schedule=schedule, asked=record, report=report
                )
            _agree(config, given, record, processes, report, overwrite=overwrite)
            return _train(
                Setting(config, given, schedule, device, processes, threads, report, show_step, teacher), start
            )


def _refuse_ignorant_twin(config: TrainConfig, given: Preparation, schedule: Schedule) -> None:
    is_new = given.source.head_units is None
    if config.distillation.learns_from_twin and schedule.quantize_from == 0 and is_new:
        raise ConfigError([
            "teacher twin is the float model where quantization starts, at step 0, where its head is new and knows "
            "nothing; give a later quantize_from, or a model that was fine-tuned on the task"
        ])  # fmt: skip


def _with_teacher(
    config: TrainConfig, given: Preparation, device: torch.device, report: Report
) -> tuple[Preparation, Teacher | None]:
    """Load the finished teacher, if there is one, after the model, whose new parameters are drawn as without."""
    if given.texts is None:
        return given, None
    found = load_teacher(config, given.texts, given.source.tokenizer, device, report)
    return replace(given, inputs={**given.inputs, **found.inputs}, texts=None), found.teacher


def _agree(
    config: TrainConfig, given: Preparation, record: RunRecord, processes: Processes, report: Report, *, overwrite: bool
) -> None:
    if processes.is_first:  # not before all that can be refused was checked
        prepare_folder(config.output_dir, record, overwrite=overwrite, report=report)
        write_data_report(config.output_dir, given.data)
    processes.wait()
    is_there = (config.output_dir / RUN_FILE).is_file()
    processes.agree(int(is_there), on=f"whether {config.output_dir} holds the run (here {is_there})")
    processes.agree(
        record.number(),
        on="options, data and model",
        remedy="Give every process the same options, the same data and the same model",
    )


def _train(setting: Setting, start: Checkpoint | None) -> RunResult:
    config, schedule, is_first = setting.config, setting.schedule, setting.processes.is_first
    masters = dict(setting.model.named_parameters())
    for master in masters.values():
        setting.processes.take_first_(master.data)  # a new head is drawn otherwise on another kind of CPU
    optimizer = _optimizer(config.optimization, masters)
    average = WeightAverage.of(masters) if schedule.average_from is not None else None
    state = _first_state(setting, optimizer, average, start)
    first_step = 0 if start is None else start.progress.step
    if not schedule.is_over(state.progress):
        with RunLog(config.output_dir, resume_step=state.progress.step) if is_first else nullcontext() as log:
            if log is not None and state.progress.step == first_step:
                # of the first step: a run that is killed before it was saved says it again, and not twice
                log.write("source", step=first_step + 1, **setting.given.source.report.values())
            save = partial(_save, setting, optimizer, average)
            state = train_phases(setting, optimizer, average, state, log=log, save=save)
    setting.processes.wait()  # the last checkpoint is written
    best = best_checkpoint(config.output_dir)
    if is_first:  # a kill may have come between the last checkpoint and this
        prune_checkpoints(config.output_dir, keep=config.record.keep_checkpoints, best_step=best.progress.step)
    if not best.progress.has_learned:
        setting.report(
            f"warning: {config.task.data.main_metric} never rose above 0 on the dev split: the model is of no use. "
            "Train longer or with another learning rate, and look whether the labels are right"
        )
    return RunResult(
        path=config.output_dir,
        best_step=best.progress.step,
        metrics=best.progress.metrics,
        last_metrics=state.progress.metrics,
        n_steps=state.progress.step,
        data=setting.given.data,
        skipped=setting.given.skipped,
        float_layers=setting.given.float_layers,
        n_skipped_steps=state.loss_scale.n_skipped,
    )


def _optimizer(options: OptimizationConfig, masters: Mapping[str, torch.nn.Parameter]) -> torch.optim.AdamW:
    return adamw(
        masters,
        weight_decay=options.weight_decay,
        betas=(options.adam_beta1, options.adam_beta2),
        epsilon=options.adam_epsilon,
    )


def _first_state(
    setting: Setting, optimizer: torch.optim.Optimizer, average: WeightAverage | None, start: Checkpoint | None
) -> TrainingState:
    config, given, schedule = setting.config, setting.given, setting.schedule
    resume = newest_checkpoint(config.output_dir, setting.model, given.sites) or start
    step = 0 if resume is None else resume.progress.step
    setting.processes.agree(step, on=f"the step to go on from (here {step})")
    no_ranges = RangeState.empty(0, decay=config.quantization.range_decay)
    if resume is None:
        return TrainingState((), no_ranges, Progress(), _first_loss_scale(config), given.target_scale)
    restore(setting.model, optimizer, resume)
    if average is not None and not schedule.is_over(resume.progress):
        restore_average(average, resume, is_begun=schedule.is_averaged(step))
    setting.report(f"going on from step {step}")
    state = TrainingState(
        (), no_ranges, resume.progress, resume.loss_scale, resume.target_scale, teacher=resume.teacher
    )
    if not schedule.is_quantized(step):
        return state
    if resume.sites and isinstance(resume.ranges, LearnedRanges) != config.quantization.learns_ranges:
        raise CheckpointError(
            f"{resume.path} has ranges that are not {config.quantization.ranges}, as the run's are. Put back its files "
            "as they were, or start again with --overwrite"
        )
    sites = tuple(
        replace(site, smoothing=before.smoothing, zero_point=before.zero_point)
        for site, before in zip(given.sites, resume.sites, strict=False)
    )  # no sites before quantization starts
    return replace(state, sites=sites, ranges=resume.ranges.to(setting.device))


def _first_loss_scale(config: TrainConfig) -> LossScale:
    options = config.execution
    if options.precision != "float16":
        return LossScale()
    return LossScale(options.loss_scale, options.loss_scale_factor, options.loss_scale_window)


def _save(
    setting: Setting,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    state: TrainingState,
    *,
    is_evaluated: bool,
) -> None:
    progress, schedule, run = state.progress, setting.schedule, setting.config.output_dir
    is_last = schedule.is_over(progress)
    if is_evaluated:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
        epoch = progress.step / schedule.steps_per_epoch
        mark = _mark(progress, schedule)
        setting.report(f"step {progress.step}/{schedule.n_steps}, epoch {epoch:.4g}, dev: {scores}{mark}")
    ranges = [] if state.amax is None else [state.amax]
    setting.processes.refuse_drift([*setting.model.parameters(), *ranges])
    if not setting.processes.is_first:
        return
    save_checkpoint(
        run,
        model=setting.model,
        tokenizer=setting.given.source.tokenizer,
        optimizer=optimizer,
        ranges=state.ranges.to(torch.device("cpu")),
        sites=state.sites,
        progress=progress,
        loss_scale=state.loss_scale,
        target_scale=state.target_scale,
        input_names=setting.given.source.input_names,
        teacher=state.teacher,
        pad_token_id=setting.given.source.pad_token_id,
        obey_special_tokens=setting.config.obey_special_tokens,
        average=average.means if average is not None and schedule.is_averaged(progress.step) and not is_last else None,
        is_last=is_last,
    )
    prune_checkpoints(run, keep=setting.config.record.keep_checkpoints, best_step=progress.best_step)


def _mark(progress: Progress, schedule: Schedule) -> str:
    """Say what a score is worth."""
    step = progress.step
    marks = []
    if step == schedule.n_steps and schedule.average_from is not None:
        marks.append(f"mean of the weights of {step - schedule.average_from} steps")
    if schedule.quantizes and step <= schedule.quantize_from:
        marks.append(f"float; quantization starts at step {schedule.quantize_from}")
    elif not schedule.counts(step):
        marks.append(f"the best is chosen after step {schedule.candidates_from}")
    elif progress.best_step == step:
        marks.append("best so far" if progress.has_learned else "best so far, and no better than chance")
    elif progress.best_step:
        marks.append(f"best so far {progress.best_metric:.4f} at step {progress.best_step}")
    return f" ({'; '.join(marks)})" if marks else ""
