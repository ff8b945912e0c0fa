"""What a finished run came to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RunResult"]


@dataclass(frozen=True)
class RunResult:
    """What a finished run came to.

    Attributes:
        path: Folder of the run.
        best_step: Step of the best checkpoint.
        metrics: Its scores on the dev split, as fractions. They also picked it, so they flatter it a little.
        n_steps: Optimizer steps in all.
        skipped: Malformed rows that were left out, one line each.
        float_layers: Linear and Embedding layers that were left in float on request.
        n_skipped_steps: Steps left out because a float16 gradient overflowed.
    """

    path: Path
    best_step: int
    metrics: Mapping[str, float]
    n_steps: int
    skipped: tuple[str, ...] = ()
    float_layers: tuple[str, ...] = ()
    n_skipped_steps: int = 0
