"""How long is trained and how fast, and what is looked at and kept on the way."""

from dataclasses import dataclass
from typing import Annotated

from q8bert.spec.checked import fit_fields
from q8bert.spec.kinds import above, at_least, share
from q8bert.training.options import MAIN_PANEL, option

__all__ = ["EvaluationConfig", "OptimizationConfig", "RecordConfig"]

_WARMUP = 0.1
_QUANTIZED_WARMUP = 0.1


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
    shuffle: bool = option(
        default=True,
        help="Draw the order of the rows anew for every epoch; --no-shuffle takes them as they stand in the file.",
        panel="Data",
    )
    gradient_accumulation: Annotated[int, at_least(1)] = option(default=1, help="Forward passes an optimizer step.")
    learning_rate: Annotated[float, above(0)] = option(
        default=1e-4, help="Peak learning rate of AdamW.", panel=MAIN_PANEL
    )
    weight_decay: Annotated[float, at_least(0)] = option(
        default=0.01, help="Decoupled weight decay, not on biases and LayerNorm."
    )
    adam_beta1: Annotated[float, share()] = option(
        default=0.9, help="Weight of the past in AdamW's mean of the gradients."
    )
    adam_beta2: Annotated[float, share()] = option(
        default=0.999, help="Weight of the past in AdamW's mean of their squares."
    )
    adam_epsilon: Annotated[float, above(0)] = option(
        default=1e-8, help="What AdamW adds to the root of that mean before it divides by it."
    )
    warmup_ratio: Annotated[float, share()] = option(
        default=_WARMUP,
        help="Share of all steps in which the learning rate rises linearly from 0.",
    )
    warmup_steps: Annotated[int, at_least(0)] | None = option(
        default=None, help="The same as a number of steps. Default: --warmup-ratio decides."
    )
    decay_power: Annotated[float, at_least(0)] = option(
        default=1.0, help="Power of the polynomial decay after the warm-up; 1 is linear."
    )
    end_learning_rate: Annotated[float, at_least(0)] = option(default=0.0, help="Where the decay ends.")
    quantized_learning_rate: Annotated[float, above(0)] | None = option(
        default=None,
        help="Peak learning rate after --quantize-from, with a warm-up and a decay of its own, in a float run too. "
        "Default: one schedule for all steps.",
    )
    quantized_warmup_ratio: Annotated[float, share()] = option(
        default=_QUANTIZED_WARMUP, help="Share of the steps with --quantized-learning-rate in which it rises from 0."
    )
    average_weights: Annotated[float, share()] = option(
        default=0.0,
        help="Share of all steps, the last ones, after each of which weights go into a mean; it becomes the last "
        "checkpoint. 0: no mean.",
    )
    max_grad_norm: Annotated[float, above(0)] = option(default=1.0, help="Global norm to which gradients are clipped.")

    def __post_init__(self) -> None:
        """Check every option."""
        fit_fields(self, self._conflicts)

    def _conflicts(self) -> list[str]:
        conflicts, quantized = [], self.quantized_learning_rate
        for name, peak in (("learning_rate", self.learning_rate), ("quantized_learning_rate", quantized)):
            if peak is not None and self.end_learning_rate > peak:
                conflicts.append(f"end_learning_rate ({self.end_learning_rate}) is above {name} ({peak})")
        if self.end_learning_rate and not self.decay_power and not conflicts:
            conflicts.append(f"end_learning_rate ({self.end_learning_rate}) is never reached: decay_power is 0")
        if self.warmup_steps is not None and self.warmup_ratio != _WARMUP:
            conflicts.append(
                f"warmup_steps ({self.warmup_steps}) and warmup_ratio ({self.warmup_ratio}) both say how long the "
                "learning rate rises; give one of them"
            )
        if quantized is None and self.quantized_warmup_ratio != _QUANTIZED_WARMUP:
            conflicts.append(
                f"quantized_warmup_ratio ({self.quantized_warmup_ratio}) is of quantized_learning_rate, which is not "
                "given"
            )
        return conflicts

    def rows_per_step(self, n_processes: int) -> int:
        """Return how many rows an optimizer step has, over all processes and forward passes."""
        return self.batch_size * self.gradient_accumulation * n_processes


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Options of the evaluations on the dev split; each field says what it means.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    evaluate: bool = option(
        default=True,
        help="Score the dev split while it is trained; --no-evaluate does so once, after the last step, whose "
        "checkpoint is the best then.",
    )
    eval_batch_size: Annotated[int, at_least(1)] = option(default=64, help="Rows a batch in evaluation.")
    eval_every: Annotated[int, at_least(0)] = option(
        default=0, help="Steps between two evaluations on the dev split. 0: after each epoch."
    )
    candidates: Annotated[int, at_least(0)] = option(
        default=0,
        help="Evaluations, the last ones of the run, of which the best is chosen. 0: all after --quantize-from, in a "
        "float run too, so that twins choose among as many.",
    )
    patience: Annotated[int, at_least(0)] = option(
        default=0,
        help="Evaluations, of those that may be the best, without a better score after which training stops. 0: never.",
    )

    def __post_init__(self) -> None:
        """Check every option."""
        fit_fields(self, self._conflicts)

    def _conflicts(self) -> list[str]:
        if self.evaluate:
            return []
        several = {"eval_every": self.eval_every, "patience": self.patience, "candidates": max(0, self.candidates - 1)}
        return [
            f"{name} ({getattr(self, name)}) is of evaluations while it is trained, but evaluate is False"
            for name, value in several.items()
            if value
        ]


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """Options of the checkpoints and the log; each field says what it means. None of them changes what is learned.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    save_every: Annotated[int, at_least(0)] = option(
        default=0,
        help="Steps between two checkpoints besides those at evaluations and at --quantize-from. 0: only at these, or "
        "after each epoch where there are no evaluations.",
        decides_results=False,
    )
    keep_checkpoints: Annotated[int, at_least(1)] = option(
        default=2,
        help="Newest checkpoints to keep; the best one is kept besides.",
        decides_results=False,
    )
    log_every: Annotated[int, at_least(1)] = option(
        default=50,
        help="Steps between two lines of the log, each with the mean loss over them and their time.",
        decides_results=False,
    )

    def __post_init__(self) -> None:
        """Check every option."""
        fit_fields(self)
