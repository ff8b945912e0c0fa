"""How long is trained and how fast, and what is looked at and kept on the way."""

from dataclasses import dataclass
from typing import Annotated

from q8bert.spec.checked import fit_fields
from q8bert.spec.kinds import above, at_least, share
from q8bert.training.options import MAIN_PANEL, option

__all__ = ["EvaluationConfig", "OptimizationConfig", "RecordConfig"]


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """Options of the optimizer, its batches and its learning rate; each field says what it means.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    epochs: Annotated[int, at_least(1)] = option(default=4, help="Passes over the training split.", panel=MAIN_PANEL)
    max_steps: Annotated[int, at_least(0)] = option(
        default=0, help="Optimizer steps in all; overrides epochs. 0: epochs decide."
    )
    batch_size: Annotated[int, at_least(1)] = option(
        default=16, help="Rows a forward pass of each process.", panel=MAIN_PANEL
    )
    gradient_accumulation: Annotated[int, at_least(1)] = option(default=1, help="Forward passes an optimizer step.")
    learning_rate: Annotated[float, above(0)] = option(
        default=1e-4, help="Peak learning rate of AdamW.", panel=MAIN_PANEL
    )
    weight_decay: Annotated[float, at_least(0)] = option(
        default=0.01, help="Decoupled weight decay, not on biases and LayerNorm."
    )
    warmup_ratio: Annotated[float, share()] = option(
        default=0.1,
        help="Share of all steps in which the learning rate rises linearly from 0.",
    )
    decay_power: Annotated[float, at_least(0)] = option(
        default=1.0, help="Power of the polynomial decay after the warm-up; 1 is linear."
    )
    end_learning_rate: Annotated[float, at_least(0)] = option(default=0.0, help="Where the decay ends.")
    max_grad_norm: Annotated[float, above(0)] = option(default=1.0, help="Global norm to which gradients are clipped.")

    def __post_init__(self) -> None:
        """Check every option."""
        fit_fields(self, self._conflicts)

    def _conflicts(self) -> list[str]:
        if self.end_learning_rate > self.learning_rate:
            return [f"end_learning_rate ({self.end_learning_rate}) is above learning_rate ({self.learning_rate})"]
        if self.end_learning_rate and not self.decay_power:
            return [f"end_learning_rate ({self.end_learning_rate}) is never reached: decay_power is 0"]
        return []

    def rows_per_step(self, n_processes: int) -> int:
        """Return how many rows an optimizer step has, over all processes and forward passes."""
        return self.batch_size * self.gradient_accumulation * n_processes


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Options of the evaluations on the dev split; each field says what it means.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    eval_batch_size: Annotated[int, at_least(1)] = option(default=64, help="Rows a batch in evaluation.")
    eval_every: Annotated[int, at_least(0)] = option(
        default=0, help="Steps between two evaluations on the dev split. 0: after each epoch."
    )
    patience: Annotated[int, at_least(0)] = option(
        default=0,
        help="Evaluations, of those with quantization, without a better score after which training stops. 0: never.",
    )

    def __post_init__(self) -> None:
        """Check every option."""
        fit_fields(self)


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """Options of the checkpoints and the log; each field says what it means. None of them changes what is learned.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    save_every: Annotated[int, at_least(0)] = option(
        default=0,
        help="Steps between two checkpoints besides those at evaluations. 0: only at evaluations.",
        decides_results=False,
    )
    keep_checkpoints: Annotated[int, at_least(1)] = option(
        default=2,
        help="Newest checkpoints to keep; the best one is kept besides.",
        decides_results=False,
    )
    log_every: Annotated[int, at_least(1)] = option(
        default=10, help="Steps between two lines of the log.", decides_results=False
    )

    def __post_init__(self) -> None:
        """Check every option."""
        fit_fields(self)
