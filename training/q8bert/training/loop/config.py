"""How long is trained and how fast, and what is looked at and kept on the way."""

from dataclasses import dataclass

from q8bert.training.options import above, at_least, check_options, option, within

__all__ = ["EvaluationConfig", "OptimizationConfig", "RecordConfig"]


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """Options of the optimizer, its batches and its learning rate; each field says what it means.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    epochs: int = option(default=4, check=at_least(1), help="Passes over the training split.")
    max_steps: int = option(
        default=0, check=at_least(0), help="Optimizer steps in all; overrides epochs. 0: epochs decide."
    )
    batch_size: int = option(default=16, check=at_least(1), help="Rows a forward pass of each process.")
    gradient_accumulation: int = option(default=1, check=at_least(1), help="Forward passes an optimizer step.")
    learning_rate: float = option(default=1e-4, check=above(0), help="Peak learning rate of AdamW.")
    weight_decay: float = option(
        default=0.01, check=at_least(0), help="Decoupled weight decay, not on biases and LayerNorm."
    )
    warmup_ratio: float = option(
        default=0.1,
        check=within("at least 0 and below 1", lambda value: 0 <= value < 1),
        help="Share of all steps in which the learning rate rises linearly from 0.",
    )
    decay_power: float = option(
        default=1.0, check=at_least(0), help="Power of the polynomial decay after it; 1 is linear."
    )
    end_learning_rate: float = option(default=0.0, check=at_least(0), help="Where the decay ends.")
    max_grad_norm: float = option(default=1.0, check=above(0), help="Global norm to which gradients are clipped.")

    def __post_init__(self) -> None:
        """Check every option."""
        check_options(self)

    def rows_per_step(self, n_processes: int) -> int:
        """Return how many rows an optimizer step has, over all processes and forward passes."""
        return self.batch_size * self.gradient_accumulation * n_processes


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Options of the evaluations on the dev split; each field says what it means.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    eval_batch_size: int = option(default=64, check=at_least(1), help="Rows a batch in evaluation.")
    eval_every: int = option(
        default=0, check=at_least(0), help="Steps between two evaluations on the dev split. 0: after each epoch."
    )
    patience: int = option(
        default=0,
        check=at_least(0),
        help="Evaluations, of those with quantization, without a better score after which training stops. 0: never.",
    )

    def __post_init__(self) -> None:
        """Check every option."""
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """Options of the checkpoints and the log; each field says what it means. None of them changes what is learned.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    save_every: int = option(
        default=0,
        check=at_least(0),
        help="Steps between two checkpoints besides those at evaluations. 0: only at evaluations.",
        decides_results=False,
    )
    keep_checkpoints: int = option(
        default=2,
        check=at_least(1),
        help="Newest checkpoints to keep; the best one is kept besides.",
        decides_results=False,
    )
    log_every: int = option(
        default=10, check=at_least(1), help="Steps between two lines of the log.", decides_results=False
    )

    def __post_init__(self) -> None:
        """Check every option."""
        check_options(self)
