"""When what happens in a run, counted in optimizer steps."""

from dataclasses import dataclass

from q8bert.training.loop.progress import Progress

__all__ = ["Schedule"]


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
