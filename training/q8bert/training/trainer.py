"""The training loop: calibrate, step, evaluate, keep the best.

Everything random follows from the run's seed and the step's number, so a run that is resumed from a checkpoint repeats
what it would have done. The loop takes plain values; options stop at :mod:`q8bert.training.run`.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from q8bert.glue.metrics import score
from q8bert.glue.tasks import Task
from q8bert.spec.errors import CalibrationError
from q8bert.training.batches import TokenizedSplit
from q8bert.training.checkpoint import Progress
from q8bert.training.engine import Batch, Engine
from q8bert.training.optimization import learning_rate_at
from q8bert.training.quantized_model import QuantizedModel
from q8bert.training.ranges import RangeState
from q8bert.training.run_log import RunLog
from q8bert.training.weights import TrainableWeights

__all__ = ["Schedule", "TrainingState", "calibrate", "evaluate_split", "train_epochs"]

_MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Schedule:
    """What the loop needs to know of the options, as plain values; see ``TrainConfig`` for their meaning."""

    epochs: int
    batch_size: int
    eval_batch_size: int
    learning_rate: float
    end_learning_rate: float
    warmup_ratio: float
    decay_power: float
    max_grad_norm: float
    seed: int
    log_every: int


@dataclass(frozen=True)
class TrainingState:
    """What changes from step to step, besides the weights and the optimizer.

    Attributes:
        ranges: Moving averages of the activation ranges; no sites for a float model.
        progress: Steps, epochs and scores so far.
    """

    ranges: RangeState
    progress: Progress

    @property
    def amax(self) -> Tensor | None:
        """The learned ranges, or None for a float model."""
        return self.ranges.amax() if len(self.ranges.average) else None


def calibrate(
    model: QuantizedModel,
    split: TokenizedSplit,
    *,
    batch_size: int,
    n_batches: int,
    seed: int,
    decay: float,
    n_sites: int,
) -> RangeState:
    """Observe float batches before anything is quantized, so that the first ranges mean something.

    Ranges seen through other, still meaningless ranges would be wrong in every deeper layer.

    Args:
        model: The float model with its sites.
        split: Training rows.
        batch_size: Rows a batch.
        n_batches: Batches to observe.
        seed: Seed of the run.
        decay: Decay of the moving average.
        n_sites: Number of sites.

    Returns:
        The state after these observations.
    """  # fmt: skip
    state = RangeState.empty(n_sites, decay=decay)
    model.eval()
    with torch.no_grad():
        for rows in split.training_batches(batch_size, seed=seed, epoch=0)[:n_batches]:
            _, observations = model(**split.batch(rows).inputs, observe=True)
            state = state.observe(observations)
    return state


def evaluate_split(
    engine: Engine, split: TokenizedSplit, task: Task, amax: Tensor | None, *, batch_size: int
) -> dict[str, float]:
    """Score a split with frozen ranges.

    Args:
        engine: Runs the model.
        split: Labelled rows.
        task: Names the metrics.
        amax: Ranges, or None for a float model.
        batch_size: Rows a batch.

    Returns:
        Metric → fraction.
    """
    logits = np.zeros((len(split), task.n_outputs), dtype=np.float32)
    for rows, batch in split.evaluation_batches(batch_size):
        logits[rows] = engine.logits(batch.inputs, amax).numpy()
    return score(task, logits, split.labels.tolist())


def train_epochs(
    engine: Engine,
    optimizer: torch.optim.Optimizer,
    weights: TrainableWeights,
    state: TrainingState,
    *,
    task: Task,
    train: TokenizedSplit,
    dev: TokenizedSplit,
    schedule: Schedule,
    log: RunLog,
    save: Callable[[TrainingState], None],
    show_step: Callable[[int, int, float], None],
) -> TrainingState:
    """Train the epochs that remain; evaluate on the dev split and save after each.

    Args:
        engine: Computes loss and gradients.
        optimizer: AdamW over the master weights.
        weights: Masters, effective buffers and gradients.
        state: Where to go on from.
        task: Names the metrics; the first picks the best checkpoint.
        train: Training rows.
        dev: Rows that pick the best checkpoint.
        schedule: The options.
        log: Receives every event.
        save: Called with the state after each epoch.
        show_step: Called with step, number of steps and loss after each step.

    Returns:
        The final state.
    """
    n_batches = -(-len(train) // schedule.batch_size)
    n_steps = n_batches * schedule.epochs
    for epoch in range(state.progress.epoch, schedule.epochs):
        started, losses = time.monotonic(), []
        for batch in _epoch(train, schedule, epoch):
            step = state.progress.step
            rate = _set_rate(optimizer, schedule, step, n_steps)
            seed = int(np.random.default_rng((schedule.seed, step)).integers(_MAX_SEED))
            result = engine.step(batch, state.amax, seed=seed)
            norm = _clipped_norm(weights, schedule.max_grad_norm, step)
            optimizer.step()
            weights.requantize()
            ranges = state.ranges.observe(result.observations) if len(result.observations) else state.ranges
            state = TrainingState(ranges, replace(state.progress, step=step + 1))
            losses.append(result.loss)
            show_step(step + 1, n_steps, result.loss)
            if (step + 1) % schedule.log_every == 0:
                log.write("train", step=step + 1, loss=result.loss, learning_rate=rate, grad_norm=norm)
        metrics = evaluate_split(engine, dev, task, state.amax, batch_size=schedule.eval_batch_size)
        state = _after_epoch(state, epoch + 1, metrics, metrics[task.main_metric])
        log.write(
            "dev", step=state.progress.step, epoch=epoch + 1, train_loss=float(np.mean(losses)),
            seconds=round(time.monotonic() - started, 2), **metrics,
        )  # fmt: skip
        save(state)
    return state


def _epoch(train: TokenizedSplit, schedule: Schedule, epoch: int) -> Iterator[Batch]:
    for rows in train.training_batches(schedule.batch_size, seed=schedule.seed, epoch=epoch):
        yield train.batch(rows)


def _set_rate(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, n_steps: int) -> float:
    rate = learning_rate_at(
        step,
        peak=schedule.learning_rate,
        end=schedule.end_learning_rate,
        n_steps=n_steps,
        warmup_ratio=schedule.warmup_ratio,
        power=schedule.decay_power,
    )
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _clipped_norm(weights: TrainableWeights, max_norm: float, step: int) -> float:
    norm = float(nn.utils.clip_grad_norm_(weights.masters.values(), max_norm))
    if not np.isfinite(norm):
        raise CalibrationError(
            f"the gradients of step {step + 1} are not finite: training has diverged. Lower --learning-rate"
        )
    return norm


def _after_epoch(state: TrainingState, epoch: int, metrics: dict[str, float], main: float) -> TrainingState:
    progress = replace(state.progress, epoch=epoch, metrics=metrics)
    if main > progress.best_metric or progress.best_step == 0:
        progress = replace(progress, best_step=progress.step, best_metric=main)
    return TrainingState(state.ranges, progress)
