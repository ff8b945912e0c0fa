"""When what happens in a run, counted in optimizer steps."""

from dataclasses import dataclass, replace

from q8bert.spec.errors import ConfigError
from q8bert.training.loop.batches import TokenizedSplit
from q8bert.training.loop.config import EvaluationConfig, OptimizationConfig, RecordConfig
from q8bert.training.loop.optimization import learning_rate_at
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
        quantize_from: First step with quantization; in a float run, the first that has it in the quantized twin.
        freeze_ranges_from: First step after which ranges stay as they are.
        eval_every: Steps between evaluations.
        optimization: Batches, learning rate and gradient norm.
        evaluation: Batches of evaluations, and when to stop early.
        record: When a checkpoint and a line of the log are due.
        seed: Seed of the run.
        quantizes: Whether the run quantizes at all.
        candidates_from: Step after which evaluations may be the best.
        average_from: Step after which weights are averaged; None if never.
        range_rate_ratio: Learning rate of learned ranges, as a multiple of that of the weights.
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
    quantizes: bool = True
    candidates_from: int = 0
    average_from: int | None = None
    range_rate_ratio: float = 1.0

    @property
    def phases(self) -> tuple[int, ...]:
        """The steps before which the phases of the run end: the float one, and the quantized one if there is one."""
        return (self.quantize_from, self.n_steps) if self.quantizes else (self.n_steps,)

    def is_over(self, progress: Progress) -> bool:
        """Whether all steps are done, or the score has not risen for too long."""
        return progress.step >= self.n_steps or 0 < self.evaluation.patience <= progress.evaluations_since_best

    def is_quantized(self, step: int) -> bool:
        """Whether a step, counted from 0, runs quantized."""
        return self.quantizes and step >= self.quantize_from

    def counts(self, step: int) -> bool:
        """Whether a score after the first ``step`` steps may be the best; in a quantized run a float one may not."""
        return step > self.candidates_from

    def is_averaged(self, step: int) -> bool:
        """Whether the weights after the first ``step`` steps go into the mean."""
        return self.average_from is not None and step > self.average_from

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0: of one schedule, or of that of its phase."""
        options = self.optimization
        quantized = options.quantized_learning_rate
        is_own = quantized is not None and step >= self.quantize_from
        start = self.quantize_from if is_own else 0
        return learning_rate_at(
            step - start,
            peak=options.learning_rate if quantized is None or not is_own else quantized,
            end=options.end_learning_rate,
            n_steps=self.n_steps - start,
            warmup=int(options.quantized_warmup_ratio * (self.n_steps - start)) if is_own else self.warmup,
            power=options.decay_power,
        )

    @property
    def warmup(self) -> int:
        """Steps in which the learning rate rises."""
        options = self.optimization
        return int(options.warmup_ratio * self.n_steps) if options.warmup_steps is None else options.warmup_steps

    def is_evaluated(self, step: int) -> bool:
        """Whether the dev split is scored after the first ``step`` steps."""
        return step == self.n_steps or (self.evaluation.evaluate and step % self.eval_every == 0)

    def is_logged(self, step: int) -> bool:
        """Whether a line of the log is due after the first ``step`` steps."""
        return step == self.n_steps or step % self.record.log_every == 0

    def ends_epoch(self, step: int) -> bool:
        """Whether a pass over the training split, or the run, ends with the first ``step`` steps."""
        return step == self.n_steps or step % self.steps_per_epoch == 0

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is due after the first ``step`` steps; one is between float and quantized steps."""
        every = self.record.save_every or (0 if self.evaluation.evaluate else self.steps_per_epoch)
        return self.is_evaluated(step) or step == self.quantize_from or (every > 0 and step % every == 0)


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

    Raises:
        ConfigError: If there are fewer evaluations than are to be chosen from, or no steps after the warm-up.
    """
    rows_per_step = optimization.rows_per_step(n_processes)
    steps_per_epoch = train.steps_per_epoch(rows_per_step)
    n_steps = optimization.max_steps or optimization.epochs * steps_per_epoch
    if (warmup := optimization.warmup_steps or 0) >= n_steps:
        raise ConfigError([
            f"warmup_steps ({warmup}) is not below the {n_steps} steps of the run, so the learning rate would never "
            "reach its peak; give fewer, or train longer"
        ])  # fmt: skip
    quantize_from, average = int(quantization.quantize_from * n_steps), optimization.average_weights
    schedule = Schedule(
        n_steps=n_steps,
        steps_per_epoch=steps_per_epoch,
        rows_per_step=rows_per_step,
        quantize_from=quantize_from,
        freeze_ranges_from=(
            quantize_from if quantization.percentile else int(quantization.freeze_ranges_from * n_steps)
        ),
        eval_every=evaluation.eval_every or steps_per_epoch,
        optimization=optimization,
        evaluation=evaluation,
        record=record,
        seed=seed,
        quantizes=quantization.quantize,
        average_from=max(quantize_from, n_steps - max(1, int(average * n_steps))) if average else None,
        range_rate_ratio=quantization.range_rate_ratio,
    )
    return replace(schedule, candidates_from=_candidates_from(schedule))


def _candidates_from(schedule: Schedule) -> int:
    n_wanted, start = schedule.evaluation.candidates, schedule.quantize_from
    if n_wanted == 0:
        return start
    evaluated = [step for step in range(start + 1, schedule.n_steps + 1) if schedule.is_evaluated(step)]
    if n_wanted > len(evaluated):
        raise ConfigError([
            f"candidates is {n_wanted}, but only {len(evaluated)} evaluations come after step {start} of "
            f"{schedule.n_steps}, where quantization starts or, in a float run, would start; give fewer, an earlier "
            "quantize_from, or a smaller eval_every"
        ])  # fmt: skip
    return evaluated[-n_wanted] - 1
