"""Text files in portions: CSV, tab-separated tables and JSON lines, cut at the ends of records, kept as they stand."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from q8bert.data.formats.foreign_files import N_HEAD_BYTES, what_else_it_is
from q8bert.data.formats.quoting import QuoteCount
from q8bert.data.formats.text_lines import shown_text
from q8bert.runtime.scoring.reading.inputs import Source
from q8bert.runtime.scoring.reading.records import (
    LARGEST_RECORD,
    PORTION_BYTES,
    PORTION_ROWS,
    PORTIONS_A_UNIT,
    Layout,
    Record,
    TextPortion,
    Unit,
)
from q8bert.spec.errors import InputError

__all__ = ["DELIMITERS", "header_of", "text_portions", "text_units", "whole_text"]

DELIMITERS = {"csv": ",", "tsv": "\t", "quoted-tsv": "\t"}
_BOM = b"\xef\xbb\xbf"


def header_of(source: Source) -> tuple[bytes, Record | None, int, int]:
    """Read how a text file begins.

    Args:
        source: The file.

    Returns:
        Its header's line with all that stands before it (of JSON lines a byte order mark alone), the header as a
        record, the byte at which rows begin, and the number of the line on which they do.

    Raises:
        InputError: If it is empty, cannot be read, or is a file of another kind.
    """
    with _opened(source.path) as file:
        head = file.read(N_HEAD_BYTES)
        if not head:
            raise InputError(f"{source.path} is empty")
        if foreign := what_else_it_is(head):
            raise InputError(f"{source.path} {foreign}")
        bom = _BOM if head.startswith(_BOM) else b""
        if source.format == "jsonl":
            return bom, None, len(bom), 1
        file.seek(len(bom))
        records = _Records(file, source, first_line=1, start=len(bom), stop=None)
        header = next(iter(records), None)
        if header is None:
            raise InputError(f"{source.path} has no header line")
        end = records.line_end or "\n"
        line = bom + header.raw.encode("utf-8", "surrogateescape") + end.encode()
        return line, header, records.offset, records.line


def whole_text(layout: Layout) -> Unit:
    """Return all rows of a text file as one unit."""
    return Unit(layout.start, layout.size, 0, layout.first_line)


def text_units(source: Source, layout: Layout) -> list[Unit]:
    """Read a text file and cut it.

    Args:
        source: The file.
        layout: How it looks.

    Returns:
        Units of some portions each, in order.

    Raises:
        InputError: If it cannot be read.
    """
    units: list[Unit] = []
    for n_portions, portion in enumerate(text_portions(source, whole_text(layout))):
        if n_portions % PORTIONS_A_UNIT == 0:
            units.append(Unit(portion.start, portion.stop, portion.first_row, portion.first_line))
        begun = units[-1]
        units[-1] = Unit(begun.start, portion.stop, begun.first_row, begun.first_line)
    return units


def text_portions(source: Source, unit: Unit) -> Iterator[TextPortion]:
    """Read a unit of a text file.

    Args:
        source: The file.
        unit: Where the rows stand.

    Yields:
        Portions of at most 4096 rows and, if more than one row, little more than 4 MiB.

    Raises:
        InputError: If it cannot be read, or a quote is not as CSV has it: nothing after it can be told apart.
    """
    quotes = QuoteCount() if source.may_be_quoted and source.format == "tsv" else None
    with _opened(source.path) as file:
        file.seek(unit.start)
        records = _Records(file, source, first_line=unit.first_line, start=unit.start, stop=unit.stop)
        start, line, first_row, batch = unit.start, unit.first_line, unit.first_row, list[Record]()
        for record in records:
            batch.append(record)
            if quotes is not None and record.cells is not None:
                quotes.add(record.cells)
            if len(batch) == PORTION_ROWS or records.offset - start >= PORTION_BYTES:
                yield TextPortion(first_row, batch, start, records.offset, line)
                first_row, start, line, batch = first_row + len(batch), records.offset, records.line, []
        if batch:
            yield TextPortion(first_row, batch, start, records.offset, line)
    if quotes is not None and quotes.looks_quoted():
        raise InputError(
            f"{source.path} looks quoted: its cells with quotes begin and end with one, and double those within. Give "
            "--format quoted-tsv to read it without them, or --format tsv to take them as text"
        )


class _Records:
    """The records between two bytes of a file; ``offset`` and ``line`` are those after the one that was given last."""

    def __init__(self, file: BinaryIO, source: Source, *, first_line: int, start: int, stop: int | None) -> None:
        self._file, self._source, self._stop = file, source, stop
        self.offset, self.line, self.line_end = start, first_line, ""
        self._pending: list[bytes] = []
        self._n_pending = 0

    def __iter__(self) -> Iterator[Record]:
        if self._source.format in {"csv", "quoted-tsv"}:
            yield from self._quoted()
        else:
            yield from self._plain()

    def _lines(self) -> Iterator[str]:
        while self._stop is None or self.offset < self._stop:
            line = self._file.readline(LARGEST_RECORD + 1)
            if not line:
                return
            self._n_pending += len(line)
            if self._n_pending > LARGEST_RECORD:
                raise InputError(
                    f"{self._source.path}, line {self.line}: the row that begins here is longer than "
                    f"{LARGEST_RECORD >> 20} MiB. A quote that is not closed, or a file that has no lines?"
                )
            self._pending.append(line)
            self.offset += len(line)
            yield line.decode("utf-8", "surrogateescape")

    def _taken(self) -> tuple[int, str]:
        """Return the number of the first line since the last call, and all lines since then as one text."""
        line, text = self.line, b"".join(self._pending).decode("utf-8", "surrogateescape")
        self.line += len(self._pending)
        self._pending.clear()
        self._n_pending = 0
        content = text.removesuffix("\n").removesuffix("\r")
        self.line_end = text[len(content) :]
        return line, content

    def _plain(self) -> Iterator[Record]:
        is_table = self._source.format == "tsv"
        for _ in self._lines():
            line, content = self._taken()
            if content.strip() or (is_table and content):
                yield Record(line, content, content.split("\t") if is_table else None)

    def _quoted(self) -> Iterator[Record]:
        _allow_long_cells()
        reader = csv.reader(self._lines(), delimiter=DELIMITERS[self._source.format], strict=True)
        try:
            for cells in reader:
                line, content = self._taken()
                if cells:
                    yield Record(line, content, cells)
        except csv.Error as error:
            raise InputError(
                f"{self._source.path}, line {self.line}: not readable as {self._source.format} ({error}). A cell that "
                "holds a quote, a delimiter or a line end stands in quotes, and quotes in it are doubled: "
                f'"He said ""no""". Here: {shown_text(b"".join(self._pending[:1]).decode("utf-8", "surrogateescape"))}'
            ) from error


def _allow_long_cells() -> None:
    # the csv module's own limit, one to a process, is 128 KiB; what is read here has another bound
    if csv.field_size_limit() < LARGEST_RECORD:
        csv.field_size_limit(LARGEST_RECORD)


class _opened:  # noqa: N801 - a context manager that is used as a function
    """A file opened for bytes; whatever the system says of it while it is read is an :class:`InputError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> BinaryIO:
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise self._told(error) from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(error, OSError):
            raise self._told(error) from error

    def _told(self, error: OSError) -> InputError:
        return InputError(f"{self._path} cannot be read: {error.strerror or error}")
