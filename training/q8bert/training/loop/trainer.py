"""The training loop: step, evaluate, keep the best.

Everything random follows from the run's seed, the step's number and the process's rank, so a run that is resumed from a
checkpoint repeats what it would have done. The loop takes plain values; options stop at :mod:`q8bert.training.run`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from q8bert.tasks.metrics import score
from q8bert.tasks.task import Task
from q8bert.training.engines.engine import Engine
from q8bert.training.loop.averaging import WeightAverage
from q8bert.training.loop.batches import TokenizedSplit
from q8bert.training.loop.feed import training_feed
from q8bert.training.loop.meter import Meter
from q8bert.training.loop.processes import Processes
from q8bert.training.loop.progress import Progress
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
    report: Callable[[str], None] = lambda _: None,
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
        report: Called with a sentence for each interval of the log and each epoch.

    Returns:
        The state after the last step.
    """
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
        started = time.perf_counter()
        given = next(feed)
        state, taken = take_step(
            state,
            given,
            engine=parts.engine,
            optimizer=parts.optimizer,
            weights=parts.weights,
            refresh=refresh,
            schedule=schedule,
            processes=parts.processes,
        )
        step = state.progress.step
        if parts.average is not None and parts.average.take(parts.weights.masters, schedule, step=step):
            refresh()
        state = _measured(state, taken, n_rows=given.n_rows, seconds=time.perf_counter() - started)
        show_step(step, schedule.n_steps, taken.loss)
        state = _logged_steps(taken, state, schedule, log, report)
        is_evaluated = schedule.is_evaluated(step)
        if is_evaluated:
            state = _evaluated(parts, state, schedule, log)
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


def _measured(state: TrainingState, taken: StepReport, *, n_rows: int, seconds: float) -> TrainingState:
    progress, loss = state.progress, taken.loss if taken.is_finite else None
    return replace(
        state,
        progress=replace(
            progress,
            interval=progress.interval.after(n_rows=n_rows, seconds=seconds, loss=loss),
            epoch=progress.epoch.after(n_rows=n_rows, seconds=seconds, loss=loss),
        ),
    )


def _logged_steps(
    taken: StepReport, state: TrainingState, schedule: Schedule, log: Log, report: Callable[[str], None]
) -> TrainingState:
    """Log what is due after a step; return the state with what was logged begun anew."""
    progress, scale, step = state.progress, state.loss_scale, state.progress.step
    epoch = step / schedule.steps_per_epoch
    if not taken.is_finite:
        log("skipped", step=step, loss_scale=scale.scale, n_skipped=scale.n_skipped)
    if schedule.is_logged(step) and progress.interval.n_losses:  # else the next line has these steps too
        steps = progress.interval
        more = {"loss_scale": scale.scale} if scale.is_dynamic else {}
        if taken.is_finite:
            more["grad_norm"] = taken.norm
        log(
            "train", step=step, loss=steps.mean_loss, n_steps=steps.n_steps, learning_rate=taken.rate, **more,
            **steps.times(),
        )  # fmt: skip
        report(f"step {step}/{schedule.n_steps}, epoch {epoch:.4g}: {steps}, learning rate {taken.rate:.3g}")
        progress = replace(progress, interval=Meter())
    if schedule.ends_epoch(step):
        steps = progress.epoch
        log(
            "epoch", step=step, epoch=round(epoch, 3), loss=steps.mean_loss, n_steps=steps.n_steps,
            seconds=round(steps.seconds, 3), **steps.times(),
        )  # fmt: skip
        report(f"epoch {epoch:.4g}: {steps.n_steps} steps in {steps.seconds:.4g} s of training, {steps}")
        progress = replace(progress, epoch=Meter())
    return replace(state, progress=progress)


def _evaluated(parts: Parts, state: TrainingState, schedule: Schedule, log: Log) -> TrainingState:
    """Score the dev split, log it, and keep whether it is the best."""
    started = time.perf_counter()
    metrics = evaluate_split(
        parts.engine,
        parts.dev,
        parts.task,
        state.amax,
        batch_size=schedule.evaluation.eval_batch_size,
        processes=parts.processes,
    )
    progress = _chosen(state.progress, metrics, metrics[parts.task.data.main_metric], schedule)
    step, losses = progress.step, state.progress
    log(
        "dev", step=step, epoch=round(step / schedule.steps_per_epoch, 3),
        train_loss=losses.loss_sum / max(1, losses.loss_count), quantized=bool(state.sites),
        candidate=schedule.counts(step), best_step=progress.best_step,
        seconds=round(time.perf_counter() - started, 2),
        **({"best": progress.best_metric} if progress.best_step else {}), **metrics,
    )  # fmt: skip
    return replace(state, progress=progress)


def _chosen(progress: Progress, metrics: Mapping[str, float], main: float, schedule: Schedule) -> Progress:
    """Return the progress after an evaluation, in which it may have become the best."""
    step = progress.step
    progress = replace(progress, metrics=metrics, loss_sum=0.0, loss_count=0)
    if not schedule.counts(step):
        return progress  # a float score is no rival to a quantized one, and twins choose among as many
    if main > progress.best_metric or progress.best_step == 0:
        return replace(progress, best_step=step, best_metric=main, evaluations_since_best=0)
    return replace(progress, evaluations_since_best=progress.evaluations_since_best + 1)
