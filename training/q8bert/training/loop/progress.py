"""How far a run has come."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from q8bert.training.loop.meter import Meter

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: Optimizer steps done.
        metrics: Scores on the dev split at the last evaluation, as fractions; empty before the first.
        best_step: Step of the best checkpoint so far; 0 before the first evaluation that may be it.
        best_metric: The main metric there.
        evaluations_since_best: Evaluations since then.
        loss_sum: Sum of the steps' losses since the last evaluation.
        loss_count: Their number.
        interval: What the steps since the last line of the log came to.
        epoch: What those since the last end of an epoch came to.
    """

    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    best_step: int = 0
    best_metric: float = 0.0
    evaluations_since_best: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    interval: Meter = field(default_factory=Meter)
    epoch: Meter = field(default_factory=Meter)

    @property
    def has_learned(self) -> bool:
        """Whether the best score is above 0, which is what chance gives in a correlation, and nothing in the rest."""
        return self.best_metric > 0
