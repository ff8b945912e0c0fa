"""Options, which count in epochs and shares, as steps."""

from q8bert.training.loop.batches import TokenizedSplit
from q8bert.training.loop.schedule import Schedule
from q8bert.training.runs.config import TrainConfig

__all__ = ["make_schedule", "rows_per_step"]


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
