"""Token ids of many rows, in a few large arrays.

A row has some tens of tokens: an array for each costs more than what it holds, and a list of Python's integers ten
times as much. Here all rows lie one behind the other, four bytes a token, and a row is a view.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoded", "Rows", "longest_row"]


@dataclass(frozen=True)
class Rows:
    """Rows of integers of any lengths.

    Attributes:
        flat: All rows one behind the other, int32.
        starts: Where each row starts, and where the last one ends; int64 ``(n + 1,)``.
    """

    flat: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | NDArray[np.integer]]) -> "Rows":
        """Put rows one behind the other."""
        starts = np.array([0, *itertools.accumulate(map(len, rows))], dtype=np.int64)
        return cls(np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32, count=int(starts[-1])), starts)

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """Put the rows of one part behind those of the other."""
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.zeros(1, dtype=np.int64), *(part.lengths for part in parts)])
        return cls(np.concatenate([np.empty(0, dtype=np.int32), *(part.flat for part in parts)]), np.cumsum(lengths))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Integers a row, shape ``(n,)``."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        return self.flat[self.starts[row] : self.starts[row + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[row] for row in range(len(self)))


@dataclass(frozen=True)
class Encoded:
    """Token ids of some rows, unpadded.

    Attributes:
        input_ids: Ids of each row, special tokens included.
        token_type_ids: Of the same lengths; 0 for the first text, 1 for the second where the model tells them apart.
        truncated: Numbers of the rows that were longer than the maximum length and lost tokens.
    """

    input_ids: Rows
    token_type_ids: Rows
    truncated: frozenset[int] = frozenset()

    @classmethod
    def joined(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """Put the rows of one part behind those of the other."""
        starts = itertools.accumulate(map(len, parts), initial=0)
        return cls(
            Rows.joined([part.input_ids for part in parts]),
            Rows.joined([part.token_type_ids for part in parts]),
            frozenset(start + row for start, part in zip(starts, parts, strict=False) for row in part.truncated),
        )

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens a row, shape ``(n,)``."""
        return self.input_ids.lengths

    def select(self, rows: Sequence[int]) -> "Encoded":
        """Return some of the rows, in the order given and numbered anew."""
        return Encoded(
            Rows.of([self.input_ids[row] for row in rows]),
            Rows.of([self.token_type_ids[row] for row in rows]),
            frozenset(at for at, row in enumerate(rows) if row in self.truncated),
        )


def longest_row(row: Encoded, length: int, *, fill: int) -> Encoded:
    """Return a row drawn out to a length.

    Args:
        row: One row, no longer than that.
        length: Tokens wanted.
        fill: Id of the tokens that are added.

    Returns:
        One row.
    """
    n_more = length - len(row.input_ids[0])
    return Encoded(
        Rows.of([np.append(row.input_ids[0], np.full(n_more, fill, dtype=np.int32))]),
        Rows.of([np.pad(row.token_type_ids[0], (0, n_more), mode="edge")]),
    )
