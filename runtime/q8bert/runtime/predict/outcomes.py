"""What becomes of each row of a batch: its logits, or an error of its own.

An engine runs a batch or fails it as a whole, so one row that the model cannot take would fail those beside it. A
batch that fails is halved until the rows that it fails for stand alone: two runs for each halving, which a healthy
batch never needs.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from q8bert.spec.errors import BundleError

__all__ = ["Outputs", "outcomes_of_rows"]

Outputs = NDArray[np.float32]


def outcomes_of_rows(
    run: Callable[[Sequence[int]], Outputs], rows: Sequence[int], *, source: str
) -> list[Outputs | BundleError]:
    """Run some rows together, and apart where that fails.

    Args:
        run: Computes the logits of the rows with these numbers, float32 ``(n, n_outputs)``; raises a
            :class:`~q8bert.spec.errors.BundleError` where the model cannot take one of them.
        rows: Numbers of the rows.
        source: Where the model stands, for messages.

    Returns:
        Float32 ``(n_outputs,)`` or an error a row, in order; no two rows share an error.
    """
    try:
        logits = run(rows)
    except BundleError as error:
        if len(rows) <= 1:
            return [error] * len(rows)
        middle = len(rows) // 2
        halves = (rows[:middle], rows[middle:])
        return [outcome for half in halves for outcome in outcomes_of_rows(run, half, source=source)]
    return [
        row
        if np.isfinite(row).all()
        else BundleError(f"{source}: the model gave logits that are not finite (NaN or infinity)")
        for row in logits
    ]
