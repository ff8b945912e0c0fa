"""What a file looks like, and the pieces in which it is read: portions for the model, units for processes.

A portion is what is held in memory: so many rows, or so many bytes. Where portions end depends on the file alone, so
every process cuts a file alike, and its answers are the same wherever it is scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from q8bert.runtime.scoring.reading.inputs import Source

__all__ = [
    "LARGEST_RECORD", "PORTIONS_A_UNIT", "PORTION_BYTES", "PORTION_ROWS", "ArrowPortion", "Layout", "PlannedFile",
    "Portion", "Record", "TextPortion", "Unit",
]  # fmt: skip

# also how far sorting by length reaches
PORTION_ROWS = 4096
PORTION_BYTES = 4 << 20
# a longer one is a quote that nobody closed, or no file of rows
LARGEST_RECORD = 64 << 20
PORTIONS_A_UNIT = 8


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is known of a file before its rows are read.

    Attributes:
        text: Column of the first text.
        text_pair: Column of the second one, or None.
        columns: Names of its columns in order; of JSON lines those of the first objects, and None where the output
            needs none.
        header: The header's line as it stands, its end and a byte order mark included; empty where there is none.
        line_end: What ends a line.
        start: Byte at which the rows begin.
        first_line: Number of the line at which they begin, from 1.
        schema: Arrow's schema of the columns, serialized; for Parquet on either side.
        size: Bytes of the file.
        mtime_ns: Time of its last change, nanoseconds.
        n_rows: Rows of a Parquet file; 0 for a text file, whose rows nobody has counted.
    """

    text: str
    text_pair: str | None
    columns: tuple[str, ...] | None = None
    header: bytes = b""
    line_end: str = "\n"
    start: int = 0
    first_line: int = 1
    schema: bytes = b""
    size: int = 0
    mtime_ns: int = 0
    n_rows: int = 0


@dataclass(frozen=True)
class PlannedFile:
    """A file that is to be scored.

    Attributes:
        source: Where it stands.
        layout: How it looks.
    """

    source: Source
    layout: Layout


@dataclass(frozen=True)
class Unit:
    """A stretch of a file that one process reads.

    Attributes:
        start: Byte at which it begins; in Parquet, row of its group.
        stop: Byte at which it ends; in Parquet, row of its group.
        first_row: Number of its first row in the file, from 0.
        first_line: Number of its first line, from 1; in Parquet, the group of rows.
    """

    start: int
    stop: int
    first_row: int = 0
    first_line: int = 1


@dataclass(frozen=True)
class Record:
    """One row of a text file.

    Attributes:
        line: Number of the line on which it begins, from 1.
        raw: Its text without the end of its line; bytes that are no UTF-8 are halves of surrogate pairs.
        cells: Its cells in order; of JSON lines None.
    """

    line: int
    raw: str
    cells: Sequence[str] | None = None


@dataclass(frozen=True)
class TextPortion:
    """Rows of a text file.

    Attributes:
        first_row: Number of the first one, from 0.
        records: The rows.
        start: Byte at which they begin.
        stop: Byte at which they end.
        first_line: Number of the line at which they begin.
    """

    first_row: int
    records: Sequence[Record]
    start: int
    stop: int
    first_line: int

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return len(self.records)


@dataclass(frozen=True)
class ArrowPortion:
    """Rows of a Parquet file.

    Attributes:
        first_row: Number of the first one, from 0.
        table: The rows, all their columns; a table of Arrow.
    """

    first_row: int
    table: Any

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return int(self.table.num_rows)


Portion: TypeAlias = TextPortion | ArrowPortion
