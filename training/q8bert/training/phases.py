"""The phases of a run: float steps as its FP32 twin takes them, then quantized ones; each has programs of its own."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from q8bert.tasks.metrics import score
from q8bert.training.engines.torch_engine import quantize_activation
from q8bert.training.loop.averaging import WeightAverage
from q8bert.training.loop.batches import passes_of_steps
from q8bert.training.loop.processes import Processes
from q8bert.training.loop.schedule import Schedule
from q8bert.training.loop.step import TrainingState
from q8bert.training.loop.trainer import Parts, train_steps
from q8bert.training.objectives.distillation import Distilled
from q8bert.training.quantization.calibration import calibrate
from q8bert.training.quantization.fake_quantize import WeightGrid
from q8bert.training.quantization.learned_ranges import LearnedRanges, Ranges
from q8bert.training.quantization.quantized_model import QuantizedModel
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.weights import grids_of, prepare_weights
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.engine_choice import choose_engine
from q8bert.training.runs.preparation import Preparation
from q8bert.training.runs.run_log import RunLog
from q8bert.training.teachers.lessons import Lesson, learn_lesson
from q8bert.training.teachers.teacher import Teacher

__all__ = ["Setting", "train_phases"]


@dataclass(frozen=True)
class Setting:
    """What all phases of a run share.

    Attributes:
        config: The options.
        given: Model and data.
        schedule: When what happens.
        device: Where it is trained.
        processes: Those that train together.
        threads: CPU threads.
        report: Called with a sentence at every stage.
        show_step: Called with step, number of steps and loss after each step.
        teacher: Whose outputs are learned from the first step on; None where the run has none, or becomes its own.
    """

    config: TrainConfig
    given: Preparation
    schedule: Schedule
    device: torch.device
    processes: Processes
    threads: int
    report: Callable[[str], None]
    show_step: Callable[[int, int, float], None]
    teacher: Teacher | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The model that is trained."""
        return self.given.source.model


def train_phases(
    setting: Setting,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    state: TrainingState,
    *,
    log: RunLog | None,
    save: Callable[..., None],
) -> TrainingState:
    """Train from where a run stands to its end.

    Args:
        setting: What all phases share.
        optimizer: AdamW over the model's parameters.
        average: Mean of the weights over the last steps, where one is wanted.
        state: Where the run stands.
        log: Receives every event; None on a process that writes nothing.
        save: Called with the state, and with ``is_evaluated``, where a checkpoint is due.

    Returns:
        The state after the last step.
    """
    schedule = setting.schedule
    lesson = None
    for until in schedule.phases:
        if state.progress.step < until and not schedule.is_over(state.progress):
            lesson = lesson or _lesson(setting, state)  # of the float model, so before it is quantized
            if setting.given.sites and not state.sites and schedule.is_quantized(state.progress.step):
                state = _calibrated(setting, state)
            state = replace(state, teacher="" if lesson is None else lesson.checksum)
            state = train_steps(
                _parts(setting, optimizer, average, state, lesson),
                state,
                schedule,
                until=until,
                log=log.write if log is not None else lambda *_, **__: None,
                save=save,
                show_step=setting.show_step,
                report=setting.report,
            )
    return state


def _parts(
    setting: Setting,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    state: TrainingState,
    lesson: Lesson | None,
) -> Parts:
    config, given = setting.config, setting.given
    weights = prepare_weights(setting.model, _grids(setting) if state.sites else {}, state.sites)
    return Parts(
        engine=choose_engine(
            setting.model,
            state.sites,
            weights,
            given.objective if lesson is None else _distilled(setting),
            input_names=given.source.input_names,
            execution=config.execution,
            threads=setting.threads,
            processes=setting.processes,
            report=setting.report,
            learns_ranges=bool(state.sites) and config.quantization.learns_ranges,
        ),
        optimizer=optimizer,
        weights=weights,
        task=config.task,
        train=replace(given.train, target_scale=state.target_scale, teacher=None if lesson is None else lesson.outputs),
        dev=replace(given.dev, target_scale=state.target_scale),
        processes=setting.processes,
        average=average,
    )


def _lesson(setting: Setting, state: TrainingState) -> Lesson | None:
    """Return what the teacher says, where the steps from here on learn from one."""
    config, given, step = setting.config, setting.given, state.progress.step
    is_twin = config.distillation.learns_from_twin
    teacher, about = setting.teacher, {"rows": given.inputs["train"].sha256}
    if is_twin and setting.schedule.is_quantized(step):
        model = QuantizedModel(setting.model, (), quantize_activation)
        teacher = Teacher("the float twin", model, None, given.train, state.target_scale)
        about["teacher"] = f"the run's own float model after step {setting.schedule.quantize_from}"
    elif teacher is not None:
        about["teacher"] = f"weights with the SHA-256 {given.inputs['teacher_weights'].sha256}"
    if teacher is None:
        return None
    lesson = learn_lesson(
        config.output_dir,
        teacher,
        known=state.teacher,
        can_be_asked=not is_twin or step == setting.schedule.quantize_from,
        about=about,
        n_outputs=config.task.head.n_outputs,
        batch_size=config.evaluation.eval_batch_size,
        processes=setting.processes,
        report=setting.report,
    )
    # labels without names may have been taken in the wrong order, and a teacher may be none; its scores tell
    scores = score(config.task, lesson.outputs.numpy(), given.train.labels.tolist())
    told = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    setting.report(f"{teacher.name} on the training rows: {told}")
    if not is_twin:
        teacher.model.to("meta")  # it has said all; its weights need no memory any more
    return lesson


def _distilled(setting: Setting) -> Distilled:
    options = setting.config.distillation
    return Distilled(
        setting.given.objective,
        n_outputs=setting.config.task.head.n_outputs,
        temperature=options.teacher_temperature,
        weight=options.teacher_weight,
    )


def _grids(setting: Setting) -> dict[str, WeightGrid]:
    return grids_of(setting.model, setting.config.quantization, float_layers=setting.given.float_layers)


def _calibrated(setting: Setting, state: TrainingState) -> TrainingState:
    options, optimization, grids = setting.config.quantization, setting.config.optimization, setting.given.grids
    if grids is not None:
        setting.report(f"quantization starts with the ranges, smoothing and zero points of {setting.config.model}")
        return replace(state, sites=grids.sites, ranges=_first_ranges(setting, grids.ranges))
    n_batches = options.calibration_batches
    of = "one float batch" if n_batches == 1 else f"{n_batches} float batches"
    setting.report(f"quantization starts: the first ranges are those of {of}")
    sites, ranges = calibrate(
        setting.model,
        setting.given.sites,
        passes_of_steps(
            setting.given.train,
            n_steps=options.calibration_batches,
            rows_per_step=setting.schedule.rows_per_step,
            batch_size=optimization.batch_size,
            seed=setting.config.seed,
            rank=setting.processes.rank,
            n_processes=setting.processes.count,
            start=state.progress.step,
        ),
        decay=options.range_decay,
        smoothing=options.smoothing,
        zero_points=options.zero_points,
        percentile=options.percentile,
        quantized=_grids(setting),
        take_largest=setting.processes.max_,
        take_sum=setting.processes.sum_,
    )
    n_smoothed, n_shifted = sum(bool(site.smoothing) for site in sites), sum(bool(site.zero_point) for site in sites)
    setting.report(f"of {len(sites)} activations, {n_smoothed} are smoothed and {n_shifted} have a zero point")
    return replace(state, sites=sites, ranges=_first_ranges(setting, ranges))


def _first_ranges(setting: Setting, ranges: RangeState) -> Ranges:
    learns = setting.config.quantization.learns_ranges
    return (LearnedRanges.starting_at(ranges.amax()) if learns else ranges).to(setting.device)
