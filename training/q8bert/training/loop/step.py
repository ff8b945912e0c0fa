"""One optimizer step: gradients, their norm, AdamW, ranges, and the weights rounded anew.

All of it stays on the device; the host waits for it once, to read the loss, the norm and whether both were finite.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from q8bert.training.engines.engine import Engine, StepResult
from q8bert.training.loop.feed import StepBatches
from q8bert.training.loop.gradients import gradient_divisor, mean_gradients, step_seed
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.processes import Processes
from q8bert.training.loop.progress import Progress
from q8bert.training.loop.schedule import Schedule
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale
from q8bert.training.quantization.learned_ranges import LearnedRanges, Ranges
from q8bert.training.quantization.ranges import refuse_infinite
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import TrainableWeights

__all__ = ["StepReport", "TrainingState", "apply_gradients", "take_step"]


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds besides the weights and the optimizer.

    Attributes:
        sites: Where activations are quantized, and how they are smoothed; empty while the model is float.
        ranges: Of the activations, observed or learned; no sites while the model is float.
        progress: Steps and scores so far.
        loss_scale: What the loss is multiplied by; fixed at 1 but in float16.
        target_scale: Between scores and what the model computes; the same through the whole run.
        teacher: SHA-256 of the teacher's outputs that are learned from; empty before, and without a teacher.
    """

    sites: tuple[Site, ...]
    ranges: Ranges
    progress: Progress
    loss_scale: LossScale
    target_scale: TargetScale = UNSCALED
    teacher: str = ""

    @property
    def amax(self) -> Tensor | None:
        """The ranges, or None while the model is float."""
        return self.ranges.amax() if self.sites else None


@dataclass(frozen=True)
class StepReport:
    """What a step came to.

    Attributes:
        loss: Mean loss over its rows.
        norm: Global norm of the gradients before clipping.
        rate: Learning rate.
        is_finite: Whether it was taken; else a gradient overflowed under the loss scale, and nothing was changed.
    """

    loss: float
    norm: float
    rate: float
    is_finite: bool


def take_step(
    state: TrainingState,
    given: StepBatches,
    *,
    engine: Engine,
    optimizer: torch.optim.Optimizer,
    weights: TrainableWeights,
    refresh: Callable[[], None],
    schedule: Schedule,
    processes: Processes,
) -> tuple[TrainingState, StepReport]:
    """Take one optimizer step.

    Args:
        state: Before the step.
        given: The rows.
        engine: Computes loss and gradients.
        optimizer: Fused AdamW over the masters.
        weights: Masters, effective buffers and gradients; changed in place.
        refresh: Brings the quantized buffers up to the masters.
        schedule: Learning rates, and when ranges are frozen.
        processes: Those that share the step.

    Returns:
        The state after it, and what it came to.

    Raises:
        CalibrationError: If gradients or activations are not finite, and no loss scale explains it.
    """
    step, scale = state.progress.step, state.loss_scale
    learns_ranges = isinstance(state.ranges, LearnedRanges)
    rate = _set_rate(optimizer, schedule, step)
    result = mean_gradients(
        engine,
        weights,
        given.batches,
        n_rows=given.n_rows,
        amax=state.amax,
        seeds=[
            step_seed(schedule.seed, step=step, rank=processes.rank, part=part) for part in range(len(given.batches))
        ],
        processes=processes,
        loss_scale=scale.scale,
        learns_ranges=learns_ranges,
    )
    # one process's norm for all: sums in another order would let their weights drift apart
    norm = torch.linalg.vector_norm(weights.gradient) / scale.scale
    processes.take_first_(norm)
    are_finite = torch.isfinite(result.observations).all()
    if learns_ranges:
        are_finite &= torch.isfinite(result.range_gradient).all()
    apply_gradients(optimizer, norm, are_finite, max_norm=schedule.optimization.max_grad_norm, loss_scale=scale.scale)
    refresh()
    loss, norm_there, finite = torch.stack([result.loss.double(), norm.double(), are_finite.double()]).tolist()
    if not finite and not scale.is_dynamic:
        refuse_infinite(result.observations)
    report = StepReport(loss, norm_there, rate, bool(finite) and math.isfinite(norm_there))
    return _after(state, schedule, result, report), report


def apply_gradients(
    optimizer: torch.optim.Optimizer, norm: Tensor, are_finite: Tensor, *, max_norm: float, loss_scale: float = 1.0
) -> None:
    """Let AdamW divide the gradients and take a step, or leave everything as it is where something is not finite.

    Args:
        optimizer: Fused AdamW.
        norm: Global norm of the gradients without the loss's scale, a scalar on their device.
        are_finite: Whether all else is finite, a boolean scalar there.
        max_norm: Norm to which gradients are clipped.
        loss_scale: What the gradients are multiplied by.
    """
    is_left_out = ~(torch.isfinite(norm) & are_finite)
    # what torch's own GradScaler hands to fused optimizers in the same way
    optimizer.grad_scale = gradient_divisor(norm, max_norm=max_norm, loss_scale=loss_scale)  # type: ignore[attr-defined]
    optimizer.found_inf = is_left_out.float()  # type: ignore[attr-defined]
    optimizer.step()


def _after(state: TrainingState, schedule: Schedule, result: StepResult, report: StepReport) -> TrainingState:
    progress, step = state.progress, state.progress.step
    if not report.is_finite:
        return replace(state, progress=replace(progress, step=step + 1), loss_scale=state.loss_scale.after_overflow())
    moves = bool(state.sites) and step < schedule.freeze_ranges_from
    return replace(
        state,
        ranges=_moved(state, schedule, result, report) if moves else state.ranges,
        progress=replace(
            progress, step=step + 1, loss_sum=progress.loss_sum + report.loss, loss_count=progress.loss_count + 1
        ),
        loss_scale=state.loss_scale.after_step(),
    )


def _moved(state: TrainingState, schedule: Schedule, result: StepResult, report: StepReport) -> Ranges:
    if isinstance(state.ranges, LearnedRanges):
        gradient = result.range_gradient / state.loss_scale.scale
        return state.ranges.descend(gradient, rate=report.rate * schedule.range_rate_ratio)
    return state.ranges.observe(result.observations)


def _set_rate(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> float:
    rate = schedule.learning_rate(step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
