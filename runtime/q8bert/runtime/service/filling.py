"""Which of the waiting rows make a batch: by tokens, and of like length.

A batch costs what it has tokens, padding included: its rows times its longest row. So a batch is full by tokens and not
by rows alone, and a short row is not padded to a long one: its padding is at most a share of the longest row, or a few
tokens, which cost less than one more call. The row that has waited longest always goes first, so none waits for ever.
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["BatchLimits", "fill"]

# so little padding is always allowed
_FREE_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """What a batch may be.

    Attributes:
        rows: Most rows.
        tokens: Most tokens, padding included; one row that is longer goes alone.
        padding: Most padding of a row, as a share of the batch's longest row; up to 8 tokens are always allowed.
    """

    rows: int
    tokens: int
    padding: float


def fill(lengths: Iterable[int], limits: BatchLimits) -> tuple[list[int], bool]:
    """Choose the rows of the next batch.

    Args:
        lengths: Tokens of the waiting rows, in order of arrival.
        limits: What a batch may be.

    Returns:
        Numbers of the rows chosen, the first one among them, and whether no other row would fit any more.
    """
    chosen: list[int] = []
    shortest = longest = 0
    for number, length in enumerate(lengths):
        if chosen:
            short, long = min(shortest, length), max(longest, length)
            if long - short > max(_FREE_TOKENS, limits.padding * long) or (len(chosen) + 1) * long > limits.tokens:
                continue
            shortest, longest = short, long
        else:
            shortest = longest = length
        chosen.append(number)
        if len(chosen) == limits.rows or (len(chosen) + 1) * longest > limits.tokens:
            return chosen, True
    return chosen, False
