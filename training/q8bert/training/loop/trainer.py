"""The training loop: step, evaluate, keep the best.

Everything random follows from the run's seed, the step's number and the process's rank, so a run that is resumed from a
checkpoint repeats what it would have done. The loop takes plain values; options stop at :mod:`q8bert.training.run`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from q8bert.tasks.metrics import score
from q8bert.tasks.task import Task
from q8bert.training.engines.engine import Engine
from q8bert.training.loop.averaging import WeightAverage
from q8bert.training.loop.batches import TokenizedSplit
from q8bert.training.loop.feed import training_feed
from q8bert.training.loop.processes import Processes
from q8bert.training.loop.schedule import Schedule
from q8bert.training.loop.step import StepReport, TrainingState, take_step
from q8bert.training.quantization.weights import TrainableWeights, refresher

__all__ = ["Parts", "evaluate_split", "train_steps"]

Log = Callable[..., None]


@dataclass(frozen=True)
class Parts:
    """What the loop works with; none of it is replaced while it runs.

    Attributes:
        engine: Computes loss and gradients.
        optimizer: AdamW over the master weights.
        weights: Masters, effective buffers and gradients.
        task: Names the metrics; the first picks the best checkpoint.
        train: Training rows.
        dev: Rows that pick the best checkpoint.
        processes: Those that share the work.
        average: The mean of the weights over the last steps; None where none is wanted.
    """

    engine: Engine
    optimizer: torch.optim.Optimizer
    weights: TrainableWeights
    task: Task
    train: TokenizedSplit
    dev: TokenizedSplit
    processes: Processes
    average: WeightAverage | None = None


def train_steps(
    parts: Parts,
    state: TrainingState,
    schedule: Schedule,
    *,
    until: int,
    log: Log,
    save: Callable[..., None],
    show_step: Callable[[int, int, float], None],
) -> TrainingState:
    """Train some steps; evaluate on the dev split and save as the schedule says.

    Args:
        parts: Model, data and optimizer.
        state: Where to go on from.
        schedule: When what happens.
        until: Step before which to stop.
        log: Receives every event.
        save: Called with the state, and with ``is_evaluated``, where a checkpoint is due.
        show_step: Called with step, number of steps and loss after each step.

    Returns:
        The state after the last step.
    """
    started = time.monotonic()
    feed = training_feed(
        parts.train,
        rows_per_step=schedule.rows_per_step,
        batch_size=schedule.optimization.batch_size,
        seed=schedule.seed,
        start=state.progress.step,
        processes=parts.processes,
        device=parts.weights.gradient.device,
    )
    refresh = refresher(parts.weights)
    while state.progress.step < until and not schedule.is_over(state.progress):
        state, report = take_step(
            state,
            next(feed),
            engine=parts.engine,
            optimizer=parts.optimizer,
            weights=parts.weights,
            refresh=refresh,
            schedule=schedule,
            processes=parts.processes,
        )
        step = state.progress.step
        show_step(step, schedule.n_steps, report.loss)
        _log_step(report, state, schedule, log)
        if parts.average is not None and parts.average.take(parts.weights.masters, schedule, step=step):
            refresh()
        is_evaluated = schedule.is_evaluated(step)
        if is_evaluated:
            train_loss = state.progress.loss_sum / max(1, state.progress.loss_count)
            state = _evaluated(parts, state, schedule)
            log(
                "dev", step=step, epoch=round(step / schedule.steps_per_epoch, 3), train_loss=train_loss,
                quantized=bool(state.sites), candidate=schedule.counts(step), best_step=state.progress.best_step,
                seconds=round(time.monotonic() - started, 2), **state.progress.metrics,
            )  # fmt: skip
            started = time.monotonic()
        if schedule.is_saved(step):
            save(state, is_evaluated=is_evaluated)
    return state


def evaluate_split(
    engine: Engine,
    split: TokenizedSplit,
    task: Task,
    amax: Tensor | None,
    *,
    batch_size: int,
    processes: Processes = Processes(),  # noqa: B008 - a frozen value
) -> dict[str, float]:
    """Score a split with frozen ranges, the processes sharing its batches.

    Args:
        engine: Runs the model.
        split: Labelled rows.
        task: Names the metrics.
        amax: Ranges, or None for a float model.
        batch_size: Rows a batch.
        processes: Those that share the work.

    Returns:
        Metric → fraction, the same on every process.
    """
    logits = torch.zeros(len(split), task.head.n_outputs)
    for rows, batch in split.evaluation_batches(batch_size, rank=processes.rank, n_processes=processes.count):
        logits[rows] = engine.outputs(batch.inputs, amax)["logits"].cpu()
    processes.sum_(logits)  # every row is zero on all processes but one
    # in float64: beside a large mean, float32 rounds scores, and another checkpoint might look best
    return score(task, split.target_scale.restore(logits.double()).numpy(), split.labels.tolist())


def _log_step(report: StepReport, state: TrainingState, schedule: Schedule, log: Log) -> None:
    step, scale = state.progress.step, state.loss_scale
    if not report.is_finite:
        log("skipped", step=step, loss_scale=scale.scale, n_skipped=scale.n_skipped)
    elif step % schedule.record.log_every == 0:
        more = {"loss_scale": scale.scale} if scale.is_dynamic else {}
        log("train", step=step, loss=report.loss, learning_rate=report.rate, grad_norm=report.norm, **more)


def _evaluated(parts: Parts, state: TrainingState, schedule: Schedule) -> TrainingState:
    metrics = evaluate_split(
        parts.engine,
        parts.dev,
        parts.task,
        state.amax,
        batch_size=schedule.evaluation.eval_batch_size,
        processes=parts.processes,
    )
    progress, step = state.progress, state.progress.step
    progress = replace(progress, metrics=metrics, loss_sum=0.0, loss_count=0)
    main = metrics[parts.task.data.main_metric]
    if not schedule.counts(step):
        pass  # a float score is no rival to a quantized one, and twins choose among as many
    elif main > progress.best_metric or progress.best_step == 0:
        progress = replace(progress, best_step=step, best_metric=main, evaluations_since_best=0)
    else:
        progress = replace(progress, evaluations_since_best=progress.evaluations_since_best + 1)
    return replace(state, progress=progress)
