"""When what happens in a run, counted in optimizer steps."""

from dataclasses import dataclass

from q8bert.training.loop.batches import TokenizedSplit
from q8bert.training.loop.config import EvaluationConfig, OptimizationConfig, RecordConfig
from q8bert.training.loop.progress import Progress
from q8bert.training.quantization.config import QuantizationConfig

__all__ = ["Schedule", "make_schedule"]


@dataclass(frozen=True)
class Schedule:
    """When what happens: the options, which count in epochs and shares, as steps.

    Attributes:
        n_steps: Steps in all.
        steps_per_epoch: Steps that pass over the training split once.
        rows_per_step: Rows of a step, over all processes and forward passes.
        quantize_from: First step with quantization; 0 in a float run.
        freeze_ranges_from: First step whose observations are no longer learned from.
        eval_every: Steps between evaluations.
        optimization: Batches, learning rate and gradient norm.
        evaluation: Batches of evaluations, and when to stop early.
        record: When a checkpoint and a line of the log are due.
        seed: Seed of the run.
    """

    n_steps: int
    steps_per_epoch: int
    rows_per_step: int
    quantize_from: int
    freeze_ranges_from: int
    eval_every: int
    optimization: OptimizationConfig
    evaluation: EvaluationConfig
    record: RecordConfig
    seed: int

    def is_over(self, progress: Progress) -> bool:
        """Whether all steps are done, or the score has not risen for too long."""
        return progress.step >= self.n_steps or 0 < self.evaluation.patience <= progress.evaluations_since_best

    def is_quantized(self, step: int) -> bool:
        """Whether a step, counted from 0, runs quantized."""
        return step >= self.quantize_from

    def counts(self, step: int) -> bool:
        """Whether a score after the first ``step`` steps may be the best; in a quantized run a float one may not."""
        return step > self.quantize_from

    def is_evaluated(self, step: int) -> bool:
        """Whether the dev split is scored after the first ``step`` steps."""
        return step % self.eval_every == 0 or step == self.n_steps

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is due after the first ``step`` steps."""
        every = self.record.save_every
        return self.is_evaluated(step) or (every > 0 and step % every == 0)


def make_schedule(
    train: TokenizedSplit,
    *,
    optimization: OptimizationConfig,
    evaluation: EvaluationConfig,
    record: RecordConfig,
    quantization: QuantizationConfig,
    seed: int,
    n_processes: int,
) -> Schedule:
    """Turn options, which count in epochs and shares, into steps.

    Args:
        train: Training rows.
        optimization: How long is trained, and in which batches.
        evaluation: When the dev split is scored.
        record: When a checkpoint and a line of the log are due.
        quantization: When quantization starts, and when ranges are frozen.
        seed: Seed of the run.
        n_processes: Processes that train together.

    Returns:
        The schedule.
    """
    rows_per_step = optimization.rows_per_step(n_processes)
    steps_per_epoch = train.steps_per_epoch(rows_per_step)
    n_steps = optimization.max_steps or optimization.epochs * steps_per_epoch
    return Schedule(
        n_steps=n_steps,
        steps_per_epoch=steps_per_epoch,
        rows_per_step=rows_per_step,
        quantize_from=int(quantization.quantize_from * n_steps) if quantization.quantize else 0,
        freeze_ranges_from=int(quantization.freeze_ranges_from * n_steps),
        eval_every=evaluation.eval_every or steps_per_epoch,
        optimization=optimization,
        evaluation=evaluation,
        record=record,
        seed=seed,
    )
