"""Whether INT8 and FP32 differ, or only their rows and seeds do: paired bootstrap over both.

One draw takes as many rows as there are, and as many seeds, both with replacement; all models are scored on the same
draw, and the difference of the mean scores of two of them is noted. The 2.5 and 97.5 percentiles of many draws are the
interval. With one seed only the rows are drawn, and the interval says nothing of other seeds.

Scores of a draw are computed from counts: each row's share in a metric's sums is fixed, and a draw says how often the
row counts. That is exact, and a thousand draws cost a matrix product.

References:
    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8 and 13.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Comparison", "Interval", "compare", "distance", "draws", "mean_over_tasks", "weighted_metric"]

Floats = NDArray[np.floating[Any]]
_N_DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie.

    Attributes:
        mean: As observed, in points (hundredths of the metric).
        low: 2.5 percentile of the draws.
        high: 97.5 percentile.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True)
class Comparison:
    """A model against the float twin, over the seeds that both have.

    Attributes:
        seeds: Those seeds.
        each: Difference of the scores of each seed, in points.
        drawn: Difference of the mean scores in each draw, in points.
    """

    seeds: tuple[int, ...]
    each: tuple[float, ...]
    drawn: Floats

    @property
    def interval(self) -> Interval:
        """Return the mean difference with its interval of 95 %."""
        low, high = np.percentile(self.drawn, [2.5, 97.5])
        return Interval(float(np.mean(self.each)), float(low), float(high))


def draws(n_rows: int, seed: int) -> Floats:
    """Return how often each row counts in each draw, float ``(draws, n_rows)``; the first draw is every row once."""
    counts = np.random.default_rng(seed).multinomial(n_rows, np.full(n_rows, 1 / n_rows), size=_N_DRAWS)
    return np.concatenate([np.ones((1, n_rows)), counts]).astype(np.float64)


def weighted_metric(name: str, predictions: NDArray[Any], labels: NDArray[Any], counts: Floats) -> Floats:
    """Return a metric of rows that count several times.

    Args:
        name: ``accuracy``, ``f1`` (of label 1), ``matthews`` or ``pearson``.
        predictions: Label ids or scores, ``(n_rows,)``.
        labels: The same of the truth.
        counts: How often each row counts, ``(draws, n_rows)``.

    Returns:
        The metric of each draw, ``(draws,)``, as a fraction; 0 where it is undefined.

    Raises:
        ValueError: If the metric is another one.
    """
    if name == "pearson":
        return _pearson(predictions.astype(float), labels.astype(float), counts)
    if name == "accuracy":
        return np.asarray(counts @ (predictions == labels) / counts.sum(axis=1))
    if name == "f1":
        hits = counts @ ((predictions == 1) & (labels == 1))
        return _ratio(2 * hits, counts @ (predictions == 1) + counts @ (labels == 1))
    if name == "matthews":
        return _matthews(predictions, labels, counts)
    raise ValueError(f"no draws of the metric {name}")


def compare(
    metric: str,
    labels: NDArray[Any],
    ours: Mapping[int, NDArray[Any]],
    theirs: Mapping[int, NDArray[Any]],
    *,
    counts: Floats,
    seed: int = 0,
) -> Comparison:
    """Compare two ways to come to a model.

    Args:
        metric: Name of the metric.
        labels: The truth, ``(n_rows,)``.
        ours: Seed → predictions of the one.
        theirs: Seed → predictions of the other.
        counts: Of :func:`draws`.
        seed: Of the draws of seeds.

    Returns:
        The comparison, over the seeds that both have.
    """
    seeds = tuple(sorted(set(ours) & set(theirs)))
    differences = 100 * np.stack([
        weighted_metric(metric, ours[at], labels, counts) - weighted_metric(metric, theirs[at], labels, counts)
        for at in seeds
    ])  # fmt: skip
    chosen = np.random.default_rng(seed).integers(0, len(seeds), (len(seeds), counts.shape[0] - 1))
    drawn = np.take_along_axis(differences[:, 1:], chosen, axis=0).mean(axis=0)
    return Comparison(seeds, tuple(differences[:, 0].tolist()), drawn)


def distance(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return how far predictions are from others, whatever the truth: 0 where they are the same.

    Args:
        ours: Label ids, or scores, ``(n_rows,)``.
        theirs: The others.

    Returns:
        Of labels the share of rows with another one; of scores the squared error relative to the variance of `theirs`.
    """
    if np.issubdtype(theirs.dtype, np.floating):
        return float(((ours - theirs) ** 2).mean() / theirs.var())
    return float((ours != theirs).mean())


def mean_over_tasks(comparisons: list[Comparison]) -> Interval:
    """Return the mean over tasks of their mean differences, with its interval; each task counts the same."""
    drawn = np.mean([comparison.drawn for comparison in comparisons], axis=0)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(np.mean([np.mean(comparison.each) for comparison in comparisons])), float(low), float(high))


def _pearson(x: Floats, y: Floats, counts: Floats) -> Floats:
    x, y = x - x.mean(), y - y.mean()  # so that the sums below do not cancel
    n = counts.sum(axis=1)
    mean_x, mean_y = counts @ x / n, counts @ y / n
    covariance = counts @ (x * y) / n - mean_x * mean_y
    variances = (counts @ (x * x) / n - mean_x**2) * (counts @ (y * y) / n - mean_y**2)
    return _ratio(covariance, np.asarray(np.sqrt(np.maximum(variances, 0.0))))


def _matthews(predictions: NDArray[Any], labels: NDArray[Any], counts: Floats) -> Floats:
    # Gorodkin 2004, for any number of labels
    known = np.union1d(predictions, labels)
    right, n = counts @ (predictions == labels), counts.sum(axis=1)
    predicted = np.stack([counts @ (predictions == label) for label in known])
    true = np.stack([counts @ (labels == label) for label in known])
    spread = (n**2 - (predicted**2).sum(axis=0)) * (n**2 - (true**2).sum(axis=0))
    return _ratio(right * n - (predicted * true).sum(axis=0), np.sqrt(spread))


def _ratio(above: Floats, below: Floats) -> Floats:
    ratio: Floats = np.divide(above, below, out=np.zeros_like(above, dtype=float), where=below > 0)
    return ratio
