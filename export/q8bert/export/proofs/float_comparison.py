"""A quantized model against the float one that it came from: what its numbers changed, on rows with labels or without.

Logits that only moved together mean nothing, and neither does their size, so their squared error is counted relative to
their variance over rows: 0 is the float model, 1 as far off as the same answer for every row would be.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q8bert.export.encoded_rows import EncodedRows
from q8bert.tasks.metrics import score
from q8bert.tasks.task import Task

__all__ = ["FloatComparison", "compare_logits", "logits_of", "relative_error"]

Forward = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float32]]
# where the float model gives all rows one answer
_SMALLEST_VARIANCE = 1e-12


@dataclass(frozen=True, kw_only=True)
class FloatComparison:
    """What quantization changed.

    Attributes:
        split: What rows were compared, in a word: ``dev``, ``held-out``.
        n_rows: How many.
        agreement: Share of rows with the label of the float model; None for a score.
        rank_correlation: Spearman's correlation with the scores of the float model; None for labels.
        max_abs_diff: Largest difference of a logit.
        mean_abs_diff: Mean difference of a logit.
        relative_error: Mean squared difference of the logits over their variance, see :func:`relative_error`.
        main_metric: The metric that is compared; None without labels.
        metrics: All metrics of the quantized model, as fractions; none without labels.
        float_metrics: Those of the float model.
        relative_loss: ``(float − quantized) / float`` of the main metric; None without labels, and where the float
            model scores zero or less.
    """

    split: str
    n_rows: int
    agreement: float | None
    rank_correlation: float | None
    max_abs_diff: float
    mean_abs_diff: float
    relative_error: float
    main_metric: str | None
    metrics: Mapping[str, float]
    float_metrics: Mapping[str, float]
    relative_loss: float | None


def compare_logits(
    task: Task,
    quantized: NDArray[np.float32],
    floats: NDArray[np.float32],
    rows: EncodedRows,
    *,
    split: str,
) -> FloatComparison:
    """Compare the logits of two models on the same rows.

    Args:
        task: Says what logits mean, and names the metrics.
        quantized: Float32 ``(n, n_outputs)``, in the user's units.
        floats: Those of the float model.
        rows: The rows, labelled or not.
        split: What they are, in a word.

    Returns:
        The comparison.
    """
    metrics, float_metrics = {}, {}
    if rows.labels is not None:
        metrics, float_metrics = score(task, quantized, rows.labels), score(task, floats, rows.labels)
    main = task.data.main_metric
    difference, is_score = np.abs(quantized - floats), task.head.is_regression
    return FloatComparison(
        split=split,
        n_rows=len(rows),
        agreement=None if is_score else float((quantized.argmax(axis=1) == floats.argmax(axis=1)).mean()),
        rank_correlation=_rank_correlation(quantized[:, 0], floats[:, 0]) if is_score else None,
        max_abs_diff=float(difference.max(initial=0.0)),
        mean_abs_diff=float(difference.mean()),
        relative_error=relative_error(quantized, floats),
        main_metric=main if metrics else None,
        metrics=metrics,
        float_metrics=float_metrics,
        relative_loss=(
            (float_metrics[main] - metrics[main]) / float_metrics[main] if float_metrics.get(main, 0.0) > 0 else None
        ),
    )


def relative_error(quantized: NDArray[np.float32], floats: NDArray[np.float32]) -> float:
    """Return the mean squared difference of logits relative to the variance of the float model's.

    What all labels of a row have in common is left out of both, for softmax does not see it.

    Args:
        quantized: ``(n, n_outputs)``.
        floats: Those of the float model.

    Returns:
        0 where nothing changed; 1 says that all was lost.
    """
    ours, theirs = (_centred(logits.astype(np.float64)) for logits in (quantized, floats))
    variance = float(((theirs - theirs.mean(axis=0)) ** 2).mean())
    return float(((ours - theirs) ** 2).mean()) / max(variance, _SMALLEST_VARIANCE)


def logits_of(
    forward: Forward,
    rows: EncodedRows,
    *,
    n_outputs: int,
    batch_size: int,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> NDArray[np.float32]:
    """Run a model on all rows.

    Args:
        forward: Int64 inputs ``(batch, seq)`` by name → logits ``(batch, n_outputs)``.
        rows: The rows.
        n_outputs: Width of the logits.
        batch_size: Rows a batch.
        show_progress: Called with rows done and rows in all.

    Returns:
        Float32 ``(n, n_outputs)``, in order.
    """
    logits = np.zeros((len(rows), n_outputs), dtype=np.float32)
    n_done = 0
    for numbers, inputs in rows.batches(batch_size):
        logits[numbers] = forward({name: tensor.numpy() for name, tensor in inputs.items()})
        n_done += len(numbers)
        show_progress(n_done, len(rows))
    return logits


def _centred(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return logits - logits.mean(axis=1, keepdims=True) if logits.shape[1] > 1 else logits


def _rank_correlation(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    from scipy import stats  # noqa: PLC0415 - it imports slowly

    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return 0.0  # nothing is told apart
    return float(stats.spearmanr(ours, theirs).statistic)
