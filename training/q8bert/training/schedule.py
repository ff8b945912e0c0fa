"""When what happens in a run, counted in optimizer steps."""

from dataclasses import dataclass

from q8bert.training.batches import TokenizedSplit
from q8bert.training.checkpoint import Progress
from q8bert.training.config import TrainConfig

__all__ = ["Schedule", "make_schedule", "rows_per_step"]


@dataclass(frozen=True)
class Schedule:
    """When what happens, counted in optimizer steps, and with which numbers; see ``TrainConfig`` for their meaning.

    Attributes:
        n_steps: Steps in all.
        steps_per_epoch: Steps that pass over the training split once.
        quantize_from: First step with quantization; 0 in a float run.
        freeze_ranges_from: First step whose observations are no longer learned from.
        eval_every: Steps between evaluations.
        save_every: Steps between checkpoints besides those at evaluations; 0 for none.
        rows_per_step: Rows of a step, over all processes and forward passes.
    """

    n_steps: int
    steps_per_epoch: int
    quantize_from: int
    freeze_ranges_from: int
    eval_every: int
    save_every: int
    rows_per_step: int
    batch_size: int
    eval_batch_size: int
    patience: int
    learning_rate: float
    end_learning_rate: float
    warmup_ratio: float
    decay_power: float
    max_grad_norm: float
    seed: int
    log_every: int

    def is_over(self, progress: Progress) -> bool:
        """Whether all steps are done, or the score has not risen for too long."""
        return progress.step >= self.n_steps or 0 < self.patience <= progress.evaluations_since_best

    def is_quantized(self, step: int) -> bool:
        """Whether a step, counted from 0, runs quantized."""
        return step >= self.quantize_from

    def has_trained_quantized(self, step: int) -> bool:
        """Whether one of the first ``step`` steps ran quantized; before, a score is that of a float model."""
        return step > self.quantize_from


def rows_per_step(config: TrainConfig, *, n_processes: int) -> int:
    """Return how many rows an optimizer step has, over all processes and forward passes."""
    return config.batch_size * config.gradient_accumulation * n_processes


def make_schedule(config: TrainConfig, train: TokenizedSplit, *, n_processes: int) -> Schedule:
    """Turn options, which count in epochs and shares, into steps.

    Args:
        config: The options.
        train: Training rows.
        n_processes: Processes that train together.

    Returns:
        The schedule.
    """
    n_rows = rows_per_step(config, n_processes=n_processes)
    steps_per_epoch = train.steps_per_epoch(n_rows)
    n_steps = config.max_steps or config.epochs * steps_per_epoch
    return Schedule(
        n_steps=n_steps,
        steps_per_epoch=steps_per_epoch,
        quantize_from=int(config.quantize_from * n_steps) if config.quantize else 0,
        freeze_ranges_from=int(config.freeze_ranges_from * n_steps),
        eval_every=config.eval_every or steps_per_epoch,
        save_every=config.save_every,
        rows_per_step=n_rows,
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        patience=config.patience,
        learning_rate=config.learning_rate,
        end_learning_rate=config.end_learning_rate,
        warmup_ratio=config.warmup_ratio,
        decay_power=config.decay_power,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        log_every=config.log_every,
    )
