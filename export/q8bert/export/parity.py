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

__all__ = ["MAX_FLOAT_DIFFERENCE", "MAX_SHARE_OF_EFFECT", "ParityReport", "compare"]

# What ties leave is small against what quantization itself does to the logits (a twentieth on STS-B's dev split); a
# defect in the graph is as large or larger. Scores are no yardstick: on few rows a single tie can move them.
MAX_SHARE_OF_EFFECT = 0.25
# float32 sums in another order, through some ten layers
MAX_FLOAT_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class ParityReport:
    """How far the exported model is from the simulation.

    Attributes:
        n_rows: Rows compared.
        max_abs_diff: Largest difference of a logit.
        mean_abs_diff: Mean difference of a logit.
        quantization_effect: Mean difference between the simulation and the same weights in float; 0 for a float model.
        equal_predictions: Share of rows with the same label; for regression, with scores within 0.01.
        main_metric: Name of the task's main metric.
        simulated: All metrics of the simulation, as fractions.
        exported: All metrics of the exported model.
    """

    n_rows: int
    max_abs_diff: float
    mean_abs_diff: float
    quantization_effect: float
    equal_predictions: float
    main_metric: str
    simulated: Mapping[str, float]
    exported: Mapping[str, float]


def compare(
    engine: Engine,
    float_engine: Engine,
    amax: Tensor | None,
    session: Session,
    *,
    split: TokenizedSplit,
    task: Task,
    batch_size: int,
) -> ParityReport:
    """Run simulation, float model and exported model on the same batches.

    Args:
        engine: The simulation.
        float_engine: The same weights, nothing quantized.
        amax: Learned ranges, or None for a float model.
        session: The exported model.
        split: Labelled rows.
        task: Names the metrics.
        batch_size: Rows a batch.

    Returns:
        The differences.

    Raises:
        ParityError: If an INT8 model's mean difference is more than :data:`MAX_SHARE_OF_EFFECT` of the effect of
            quantization, or a float model's largest one more than :data:`MAX_FLOAT_DIFFERENCE`.
    """
    simulated = np.zeros((len(split), task.n_outputs), dtype=np.float32)
    exported, floats = np.zeros_like(simulated), np.zeros_like(simulated)
    for rows, batch in split.evaluation_batches(batch_size):
        simulated[rows] = engine.logits(batch.inputs, amax).numpy()
        floats[rows] = simulated[rows] if amax is None else float_engine.logits(batch.inputs, None).numpy()
        exported[rows] = session.run({name: tensor.numpy() for name, tensor in batch.inputs.items()})
    difference = np.abs(simulated - exported)
    labels = split.labels.tolist()
    report = ParityReport(
        n_rows=len(split),
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        quantization_effect=float(np.abs(simulated - floats).mean()),
        equal_predictions=float(np.mean(_equal(simulated, exported, task))),
        main_metric=task.main_metric,
        simulated=score(task, simulated, labels),
        exported=score(task, exported, labels),
    )
    _refuse_defects(report, is_float=amax is None)
    return report


def _refuse_defects(report: ParityReport, *, is_float: bool) -> None:
    if is_float:
        found, allowed, what = report.max_abs_diff, MAX_FLOAT_DIFFERENCE, "largest difference of a logit"
    else:
        found, allowed = report.mean_abs_diff, MAX_SHARE_OF_EFFECT * report.quantization_effect
        what = "mean difference of a logit"
    if found > max(allowed, MAX_FLOAT_DIFFERENCE):
        raise ParityError(
            f"the exported model is not the one that was trained: {what} {found:.4g} between it and the simulation, "
            f"allowed {allowed:.4g}",
            max_abs_diff=report.max_abs_diff,
            atol=allowed,
        )


def _equal(a: NDArray[np.float32], b: NDArray[np.float32], task: Task) -> NDArray[np.bool_]:
    if task.is_regression:
        return np.asarray(np.abs(a[:, 0] - b[:, 0]) <= 0.01)
    return np.asarray(a.argmax(axis=1) == b.argmax(axis=1))
