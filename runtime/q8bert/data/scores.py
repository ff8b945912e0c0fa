"""Scores of regression, the same whatever file they come in.

A table holds decimals, TFRecord and many Parquet files float32. What is learned from must not depend on that: a float32
is read as the shortest decimal that gives it, 3.8 and not 3.7999999523, and where a table has more digits than float32
can hold, they are left out, if nothing can be learned from them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["decimal_of", "single_precision"]

# of a standard deviation: what may be lost of a score
_NEGLIGIBLE = 1e-6


def decimal_of(value: Any) -> float:
    """Return a score as the number that was written down: of a float32 or float16 the shortest decimal that gives it.

    Args:
        value: A number of numpy or of Python.

    Returns:
        The number; others than these as they are.
    """
    return float(str(value)) if isinstance(value, np.float32 | np.float16) else float(value)


def single_precision(scores: Sequence[float]) -> list[float]:
    """Return scores with the digits that float32 holds, where the others say nothing.

    Args:
        scores: Finite numbers.

    Returns:
        The scores as they are where rounding would move one of them by more than a millionth of a standard deviation:
        with a large offset, or beyond the range of float32.
    """
    exact = np.asarray(scores, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        narrow = exact.astype(np.float32)
        rounded = [decimal_of(score) for score in narrow]
        is_close = bool(np.max(np.abs(np.array(rounded) - exact), initial=0.0) <= _NEGLIGIBLE * _spread(exact))
    return rounded if is_close else list(scores)


def _spread(scores: Any) -> float:
    # divided first: the squares of large numbers overflow
    largest = float(np.max(np.abs(scores), initial=0.0))
    return largest * float(np.std(scores / largest)) if largest else 0.0
