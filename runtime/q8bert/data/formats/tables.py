"""Tables: tab-separated without quoting, as GLUE has them, or quoted as RFC 4180 says, with tabs or with commas.

GLUE's files take a lone ``"`` as an ordinary character; some start with a byte order mark, CoLA's train and dev have no
header line, and rows may contain characters such as U+2028 that Python's ``splitlines`` takes for line ends. So lines
end at line feeds alone. Lines without content are no rows.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from q8bert.data.examples import CellError
from q8bert.data.formats.quoting import QuoteCount, is_quoted
from q8bert.data.formats.text_lines import broken_text, shown_text
from q8bert.spec.errors import InputError
from q8bert.tasks.task import Task

__all__ = ["Row", "table_rows"]

# number of the line on which it begins, from 1, and its cells by column, or why it has none
Row: TypeAlias = tuple[int, Mapping[str, object] | CellError]
_Record: TypeAlias = tuple[int, list[str]]

_DELIMITERS = {"tsv": "\t", "quoted-tsv": "\t", "csv": ","}
_UNQUOTE = "--format quoted-tsv reads a quoted file"


def table_rows(
    lines: Iterable[str],
    *,
    task: Task,
    path: Path,
    labelled: bool,
    file_format: str,
    quotes: QuoteCount | None,
) -> Iterator[Row]:
    """Read the rows of a table.

    Args:
        lines: Its lines, their ends included.
        task: Says which columns are needed.
        path: Where it comes from, for messages.
        labelled: Whether the label's column is needed.
        file_format: ``tsv``, ``quoted-tsv`` or ``csv``.
        quotes: Counts the quotes of an unquoted table; None where it is known how it was written.

    Yields:
        Each row.

    Raises:
        InputError: If the header lacks a column, or a quote is not as CSV has it: nothing after it can be told apart.
    """
    records = _records(lines, path, file_format)
    first = next(records, None)
    if first is None:
        return
    columns = _columns(first, task=task, path=path, labelled=labelled, file_format=file_format)
    if columns is None:
        columns = list(task.data.headerless_columns)
        yield first[0], _cells(first[1], columns, quotes)
    for line, record in records:
        if quotes is not None:
            quotes.add(record)
        yield line, _cells(record, columns, quotes)


def _records(lines: Iterable[str], path: Path, file_format: str) -> Iterator[_Record]:
    if file_format == "tsv":
        for number, line in enumerate(lines, start=1):
            if content := line.removesuffix("\n").removesuffix("\r"):
                yield number, content.split("\t")
        return
    reader, start = csv.reader(lines, delimiter=_DELIMITERS[file_format], strict=True), 1
    try:
        for record in reader:
            if record:
                yield start, record
            start = reader.line_num + 1  # a quoted cell may hold line ends
    except csv.Error as error:
        raise InputError(
            f"{path}, line {start}: not readable as {file_format} ({error}). A cell that holds a quote, a delimiter or "
            'a line end stands in quotes, and quotes in it are doubled: "He said ""no"""'
        ) from error


def _columns(first: _Record, *, task: Task, path: Path, labelled: bool, file_format: str) -> list[str] | None:
    """Return the column names; None where the first record is a row already."""
    line, header = first
    if any("\r" in name for name in header):
        raise InputError(f"{path}: its lines end in carriage returns alone; save it with line feeds")
    if task.data.headerless_columns and task.data.text_column not in header:
        return None
    needed = [task.data.text_column, task.data.text_pair_column, task.data.label_column if labelled else None]
    missing = [name for name in needed if name is not None and name not in header]
    if missing:
        raise InputError(
            f"{path}, line {line}: the header lacks column {', '.join(missing)}; it has "
            f"{shown_text(', '.join(header))}. "
            f"{_what_it_may_be(header, file_format) or f'Is this a {file_format} file of {task.name}?'}"
        )
    twice = [name for name in needed if name is not None and header.count(name) > 1]
    if twice:
        raise InputError(
            f"{path}, line {line}: column {', '.join(twice)} stands there more than once; rename or remove one"
        )
    return header


def _what_it_may_be(header: Sequence[str], file_format: str) -> str | None:
    line, is_one = _DELIMITERS[file_format].join(header), len(header) == 1
    guesses = {
        "JSON lines are read with --format jsonl": line.lstrip().startswith(("{", "[")),
        f"Its cells are quoted: {_UNQUOTE}": file_format == "tsv" and any(is_quoted(cell) for cell in header),
        "It has tabs: --format tsv reads it, or quoted-tsv": file_format == "csv" and "\t" in line,
        "It has commas: --format csv reads it": file_format != "csv" and is_one and "," in line,
        "Its cells seem to be separated by ';' or '|'; save it with commas (csv) or with tabs": is_one
        and (";" in line or "|" in line),
    }
    return next((guess for guess, holds in guesses.items() if holds), None)


def _cells(
    record: Sequence[str], columns: Sequence[str], quotes: QuoteCount | None
) -> Mapping[str, object] | CellError:
    for number, cell in enumerate(record):
        if broken := broken_text(columns[number] if number < len(columns) else str(number + 1), cell):
            return broken
    if len(record) != len(columns):
        # a lost or added delimiter shifts every later cell: nothing in the row can be trusted
        at = columns[len(record)] if len(record) < len(columns) else str(len(columns) + 1)
        reason = f"the row has {len(record)} columns instead of {len(columns)}"
        if quotes is not None and any(cell.startswith('"') and not is_quoted(cell) for cell in record):
            reason += f", and a quote opens that does not close ({_UNQUOTE})"
        return CellError(at, record[-1], reason)
    return dict(zip(columns, record, strict=True))
