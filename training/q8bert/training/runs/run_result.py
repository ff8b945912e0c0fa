"""What a finished run came to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from q8bert.training.runs.data_report import DataReport

__all__ = ["RunResult"]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a finished run came to.

    Attributes:
        path: Folder of the run.
        best_step: Step of the best checkpoint.
        metrics: Its scores on the dev split, as fractions. They also picked it, so they flatter it a little.
        last_metrics: Scores of the last evaluation, after ``n_steps`` steps, which no score picked.
        n_steps: Optimizer steps in all.
        n_skipped_steps: Steps left out because a float16 gradient overflowed.
        float_layers: Linear and Embedding layers that were left in float on request.
        data: How many rows it learned from and was scored on, and what of them was lost.
        skipped: Malformed rows that were left out, one line each.
    """

    path: Path
    best_step: int
    metrics: Mapping[str, float]
    last_metrics: Mapping[str, float]
    n_steps: int
    n_skipped_steps: int
    float_layers: tuple[str, ...]
    data: DataReport
    skipped: tuple[str, ...]
