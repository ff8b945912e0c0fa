"""Whether a tab-separated file was written with quotes, as CSV is, though it is read without.

GLUE's files have no quoting: a ``"`` is a character of the text. Spreadsheets and ``DataFrame.to_csv`` of pandas quote:
they write ``He said "no" twice`` as ``"He said ""no"" twice"``. Read as they stand, such cells give a model quotes that
were never in the text. In a quoted file every cell with a quote begins and ends with one and doubles those within.
"""

import re
from collections.abc import Sequence

__all__ = ["QuoteCount", "is_quoted"]

_QUOTED = re.compile(r'"(?:[^"]|"")*"')
# of the cells that hold a quote; the rest may be slips
_SHARE = 0.95


def is_quoted(cell: str) -> bool:
    """Whether a cell is written as CSV writes one that it quotes."""
    return _QUOTED.fullmatch(cell) is not None


class QuoteCount:
    """Counts cells with quotes of a file that is read without quoting."""

    def __init__(self) -> None:
        self._n_with_quotes = 0
        self._n_quoted = 0
        self._n_doubled = 0

    def add(self, cells: Sequence[str]) -> None:
        """Count the cells of a row."""
        for cell in cells:
            if '"' in cell:
                self._n_with_quotes += 1
                if is_quoted(cell):
                    self._n_quoted += 1
                    self._n_doubled += '""' in cell[1:-1]

    def looks_quoted(self) -> bool:
        """Whether the cells so far were quoted; a text that merely stands in quotes doubles none."""
        return self._n_doubled > 0 and self._n_quoted >= _SHARE * self._n_with_quotes
