"""The metrics of GLUE, by scipy and scikit-learn, as fractions (0.861, not 86.1)."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q8bert.machine.builds import require
from q8bert.spec.errors import InputError
from q8bert.tasks.task import Task

__all__ = ["refuse_undefined", "score"]


def score(task: Task, logits: NDArray[np.floating[Any]], labels: Sequence[int | float]) -> dict[str, float]:
    """Compute every metric of a task.

    Args:
        task: Says how logits are decided, and names the metrics.
        logits: Model outputs, shape ``(n, n_outputs)``.
        labels: Label ids or scores, length n.

    Returns:
        Metric name → value. Where a correlation is undefined because all predictions (or all labels) are
        equal, it counts as 0: nothing was told apart. Matthews correlation is 0 there by definition.

    Raises:
        InputError: If there are no rows, or logits and labels differ in number or are not finite.
    """
    require("scipy", "sklearn", extra="evaluate", purpose="scoring")
    if len(labels) != len(logits) or not len(labels):
        raise InputError(f"cannot score {len(logits)} predictions against {len(labels)} labels")
    if not np.all(np.isfinite(logits)):
        raise InputError("the model gave logits that are not finite (NaN or infinity)")
    predictions = task.head.decide(logits)
    return {name: _value(name, predictions, np.asarray(labels)) for name in task.data.metrics}


def refuse_undefined(task: Task, labels: Sequence[int | float], *, source: str) -> None:
    """Refuse labels on which the main metric says nothing, whatever is predicted.

    Args:
        task: Names the metric.
        labels: Label ids or scores of a split.
        source: Where they come from, for the message.

    Raises:
        InputError: If all labels are equal and the metric is a correlation, or if none is the positive one of F1.
    """
    metric, found = task.data.main_metric, set(labels)
    name = dict(enumerate(task.head.labels)).get
    if metric in {"matthews", "pearson", "spearman"} and len(found) == 1:
        only = found.pop()
        reason = f"every row has the score {only}" if task.head.is_regression else f"every row is {name(int(only))!r}"
    elif metric == "f1" and 1 not in found:
        reason = f"no row is {name(1)!r}, the label that F1 counts"
    else:
        return
    raise InputError(
        f"{source}: {metric} is undefined there, whatever a model predicts: {reason}. Give a split in which labels "
        "differ, or name another metric first"
    )


def _value(name: str, predictions: NDArray[np.generic], labels: NDArray[np.generic]) -> float:
    # both import slowly, and only scoring needs them
    from scipy import stats  # noqa: PLC0415
    from sklearn import metrics  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        match name:
            case "accuracy":
                value = metrics.accuracy_score(labels, predictions)
            case "f1":
                value = metrics.f1_score(labels, predictions, zero_division=0.0)
            case "matthews":
                value = metrics.matthews_corrcoef(labels, predictions)
            case "pearson":
                value = stats.pearsonr(predictions, labels).statistic if len(labels) > 1 else np.nan
            case _:
                value = stats.spearmanr(predictions, labels).statistic if len(labels) > 1 else np.nan
    return 0.0 if np.isnan(value) else float(value)
