"""The training loop: step, evaluate, keep the best.

Everything random follows from the run's seed, the step's number and the process's rank, so a run that is resumed from a
checkpoint repeats what it would have done. The loop takes plain values; options stop at :mod:`q8bert.training.run`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from q8bert.tasks.metrics import score
from q8bert.tasks.task import Task
from q8bert.training.engines.engine import Engine
from q8bert.training.loop.batches import TokenizedSplit, shared_out
from q8bert.training.loop.gradients import clip_gradients_, mean_gradients, step_seed
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.optimization import learning_rate_at
from q8bert.training.loop.processes import Processes
from q8bert.training.loop.progress import Progress
from q8bert.training.loop.schedule import Schedule
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import TrainableWeights

__all__ = ["Parts", "TrainingState", "evaluate_split", "train_steps"]

Log = Callable[..., None]


@dataclass(frozen=True)
class TrainingState:
    """What changes from step to step, besides the weights and the optimizer.

    Attributes:
        sites: Where activations are quantized, and how they are smoothed; the same in every step.
        ranges: Moving averages of the activation ranges; no sites for a float model.
        progress: Steps and scores so far.
        loss_scale: What the loss is multiplied by; fixed at 1 but in float16.
    """

    sites: tuple[Site, ...]
    ranges: RangeState
    progress: Progress
    loss_scale: LossScale

    @property
    def amax(self) -> Tensor | None:
        """The learned ranges, or None for a float model."""
        return self.ranges.amax() if len(self.ranges.average) else None


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
    """

    engine: Engine
    optimizer: torch.optim.Optimizer
    weights: TrainableWeights
    task: Task
    train: TokenizedSplit
    dev: TokenizedSplit
    processes: Processes


def train_steps(
    parts: Parts,
    state: TrainingState,
    schedule: Schedule,
    *,
    log: Log,
    save: Callable[..., None],
    show_step: Callable[[int, int, float], None],
) -> TrainingState:
    """Train the steps that remain; evaluate on the dev split and save as the schedule says.

    Args:
        parts: Model, data and optimizer.
        state: Where to go on from.
        schedule: When what happens.
        log: Receives every event.
        save: Called with the state, and with ``is_evaluated``, where a checkpoint is due.
        show_step: Called with step, number of steps and loss after each step.

    Returns:
        The final state.
    """
    started = time.monotonic()
    steps = parts.train.training_steps(schedule.rows_per_step, seed=schedule.seed, start=state.progress.step)
    parts.weights.refresh(quantize=schedule.is_quantized(state.progress.step))
    while not schedule.is_over(state.progress):
        state = _one_step(parts, state, schedule, next(steps), log=log, show_step=show_step)
        step = state.progress.step
        is_evaluated = schedule.is_evaluated(step)
        if is_evaluated:
            train_loss = state.progress.loss_sum / max(1, state.progress.loss_count)
            state = _evaluated(parts, state, schedule)
            log(
                "dev", step=step, epoch=round(step / schedule.steps_per_epoch, 3), train_loss=train_loss,
                quantized=state.amax is not None and schedule.has_trained_quantized(step),
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
        logits[rows] = engine.logits(batch.inputs, amax).cpu()
    processes.sum_(logits)  # every row is zero on all processes but one
    return score(task, logits.numpy(), split.labels.tolist())


def _one_step(
    parts: Parts,
    state: TrainingState,
    schedule: Schedule,
    rows: NDArray[np.int64],
    *,
    log: Log,
    show_step: Callable[[int, int, float], None],
) -> TrainingState:
    progress, step, rank = state.progress, state.progress.step, parts.processes.rank
    rate = _set_rate(parts.optimizer, schedule, step)
    passes = shared_out(rows, schedule.optimization.batch_size, rank=rank, n_processes=parts.processes.count)
    result = mean_gradients(
        parts.engine,
        parts.weights,
        [parts.train.batch(part) for part in passes],
        n_rows=len(rows),
        amax=state.amax if schedule.is_quantized(step) else None,
        seeds=[step_seed(schedule.seed, step=step, rank=rank, part=part) for part in range(len(passes))],
        processes=parts.processes,
        loss_scale=state.loss_scale.scale,
    )
    norm = clip_gradients_(parts.weights.gradient, max_norm=schedule.optimization.max_grad_norm)
    ranges, loss_scale = state.ranges, state.loss_scale
    progress = replace(progress, step=step + 1)
    # under a loss scale a range may overflow though FakeQuant clamps what it belongs to
    is_finite = np.isfinite(norm) and not (
        loss_scale.is_dynamic and not bool(torch.isfinite(result.observations).all())
    )
    if is_finite:
        parts.optimizer.step()
        loss_scale = loss_scale.after_step()
        progress = replace(progress, loss_sum=progress.loss_sum + result.loss, loss_count=progress.loss_count + 1)
        if len(result.observations) and step < schedule.freeze_ranges_from:
            ranges = ranges.observe(result.observations.cpu())
    else:
        loss_scale = loss_scale.after_overflow()
        log("skipped", step=step + 1, loss_scale=loss_scale.scale, n_skipped=loss_scale.n_skipped)
    parts.weights.refresh(quantize=schedule.is_quantized(step + 1))
    show_step(step + 1, schedule.n_steps, result.loss)
    if (step + 1) % schedule.record.log_every == 0 and is_finite:
        scale = {"loss_scale": loss_scale.scale} if loss_scale.is_dynamic else {}
        log("train", step=step + 1, loss=result.loss, learning_rate=rate, grad_norm=norm, **scale)
    return replace(state, ranges=ranges, progress=progress, loss_scale=loss_scale)


def _set_rate(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> float:
    options = schedule.optimization
    rate = learning_rate_at(
        step,
        peak=options.learning_rate,
        end=options.end_learning_rate,
        n_steps=schedule.n_steps,
        warmup_ratio=options.warmup_ratio,
        power=options.decay_power,
    )
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _evaluated(parts: Parts, state: TrainingState, schedule: Schedule) -> TrainingState:
    step = state.progress.step
    counts = schedule.has_trained_quantized(step)
    if not counts:  # at the step where quantization starts, the weights are quantized already
        parts.weights.refresh(quantize=False)
    metrics = evaluate_split(
        parts.engine,
        parts.dev,
        parts.task,
        state.amax if counts else None,
        batch_size=schedule.evaluation.eval_batch_size,
        processes=parts.processes,
    )
    if not counts:
        parts.weights.refresh(quantize=schedule.is_quantized(step))
    progress = replace(state.progress, metrics=metrics, loss_sum=0.0, loss_count=0)
    main = metrics[parts.task.data.main_metric]
    if not counts:
        pass  # a float score is no rival to a quantized one
    elif main > progress.best_metric or progress.best_step == 0:
        progress = replace(progress, best_step=step, best_metric=main, evaluations_since_best=0)
    else:
        progress = replace(progress, evaluations_since_best=progress.evaluations_since_best + 1)
    return replace(state, progress=progress)
