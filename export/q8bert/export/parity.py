"""Simulation against exported model, on real rows.

The simulation is what training scored: torch, with weights and activations rounded to their grids. The exported model
multiplies integers. Both round half to even at the same places, so they differ only where a sum of
floats, taken in another order, falls on the other side of a rounding tie, and what follows from that.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from q8bert.glue.metrics import score
from q8bert.glue.tasks import Task
from q8bert.runtime.session import Session
from q8bert.spec.errors import ParityError
from q8bert.training.batches import TokenizedSplit
from q8bert.training.engine import Engine

__all__ = ["MAX_METRIC_DIFFERENCE", "ParityReport", "compare"]

# Ties move single rows, not scores. The largest difference seen on a whole dev split was a tenth of
# this; a defect in the graph is far above it.
MAX_METRIC_DIFFERENCE = 0.005


@dataclass(frozen=True)
class ParityReport:
    """How far the exported model is from the simulation.

    Attributes:
        n_rows: Rows compared.
        max_abs_diff: Largest difference of a logit.
        mean_abs_diff: Mean difference of a logit.
        equal_predictions: Share of rows with the same label; for regression, with scores within 0.01.
        main_metric: Name of the task's main metric.
        simulated: All metrics of the simulation, as fractions.
        exported: All metrics of the exported model.
    """

    n_rows: int
    max_abs_diff: float
    mean_abs_diff: float
    equal_predictions: float
    main_metric: str
    simulated: Mapping[str, float]
    exported: Mapping[str, float]


def compare(
    engine: Engine,
    amax: Tensor | None,
    session: Session,
    split: TokenizedSplit,
    task: Task,
    *,
    batch_size: int,
) -> ParityReport:
    """Run both on the same batches.

    Args:
        engine: The simulation.
        amax: Learned ranges, or None for a float model.
        session: The exported model.
        split: Labelled rows.
        task: Names the metrics.
        batch_size: Rows a batch.

    Returns:
        The differences.

    Raises:
        ParityError: If the main metric differs by more than :data:`MAX_METRIC_DIFFERENCE`.
    """
    simulated = np.zeros((len(split), task.n_outputs), dtype=np.float32)
    exported = np.zeros_like(simulated)
    for rows, batch in split.evaluation_batches(batch_size):
        simulated[rows] = engine.logits(batch.inputs, amax).numpy()
        exported[rows] = session.run({name: tensor.numpy() for name, tensor in batch.inputs.items()})
    difference = np.abs(simulated - exported)
    labels = split.labels.tolist()
    report = ParityReport(
        n_rows=len(split),
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        equal_predictions=float(np.mean(_equal(simulated, exported, task))),
        main_metric=task.main_metric,
        simulated=score(task, simulated, labels),
        exported=score(task, exported, labels),
    )
    gap = abs(report.simulated[task.main_metric] - report.exported[task.main_metric])
    if gap > MAX_METRIC_DIFFERENCE:
        raise ParityError(
            f"the exported model's {task.main_metric} differs from the simulation's by {gap:.4f} (allowed "
            f"{MAX_METRIC_DIFFERENCE}); largest difference of a logit {report.max_abs_diff:.4f}",
            max_abs_diff=report.max_abs_diff,
            atol=MAX_METRIC_DIFFERENCE,
        )
    return report


def _equal(a: NDArray[np.float32], b: NDArray[np.float32], task: Task) -> NDArray[np.bool_]:
    if task.is_regression:
        return np.asarray(np.abs(a[:, 0] - b[:, 0]) <= 0.01)
    return np.asarray(a.argmax(axis=1) == b.argmax(axis=1))
