"""Rows and answers as lines: what the input had stands there as it stood, the answers behind it."""

import datetime
import decimal
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from q8bert.runtime.scoring.answer_columns import Answer, AnswerColumns
from q8bert.runtime.scoring.reading.records import PlannedFile, TextPortion
from q8bert.runtime.scoring.reading.rows import Row
from q8bert.runtime.scoring.reading.text_files import DELIMITERS
from q8bert.spec.errors import InputError

__all__ = ["head_of_output", "lines_of_output"]

_NEEDS_QUOTES = frozenset('"\r\n')


def head_of_output(file: PlannedFile, answers: AnswerColumns) -> bytes:
    """Return what stands before the rows: the header of a table, and the byte order mark that the input had."""
    source, layout = file.source, file.layout
    if source.output_format == "jsonl":
        return layout.header if source.format == "jsonl" else b""
    cells = _cells(answers.names(source.output_format), source.output_format)
    if source.output_format == source.format:
        header = layout.header.decode("utf-8").removesuffix("\n").removesuffix("\r")
    else:
        header = _cells(layout.columns or (), source.output_format)
    return f"{header}{DELIMITERS[source.output_format]}{cells}{layout.line_end}".encode()


def lines_of_output(
    file: PlannedFile,
    answers: AnswerColumns,
    portion: TextPortion | None,
    rows: Sequence[tuple[Row, Answer]],
) -> bytes:
    """Write rows with their answers.

    Args:
        file: Says the formats on both sides, and how the input looks.
        answers: The new columns.
        portion: The rows as they stand in a text file; None of a Parquet file.
        rows: Each row and its answer.

    Returns:
        The lines, UTF-8.

    Raises:
        InputError: If a value cannot be written as text, or a JSON object has a key that the answers need.
    """
    source = file.source
    raws = [record.raw for record in portion.records] if portion is not None else [""] * len(rows)
    lines_are_records = source.format == source.output_format
    write = _json_line if source.output_format == "jsonl" else _table_line
    try:
        lines = [
            write(file, answers, raw if lines_are_records else None, row, answer)
            for raw, (row, answer) in zip(raws, rows, strict=True)
        ]
    except _UnwritableError as error:
        raise InputError(f"{source.path}: {error}. Leave --output-format parquet, which keeps it") from error
    end = file.layout.line_end if source.format != "parquet" else "\n"
    try:
        return "".join(line + end for line in lines).encode()
    except UnicodeEncodeError as error:  # JSON can spell it, and no other format
        raise InputError(
            f"{source.path}: a value holds half a surrogate pair, which only JSON lines can keep"
        ) from error


class _UnwritableError(Exception):
    """A value that has no form as text."""


def _json_line(file: PlannedFile, answers: AnswerColumns, raw: str | None, row: Row, answer: Answer) -> str:
    members = answers.members(answer, with_row=row.values is None)
    if row.values is not None and (clash := members.keys() & row.values.keys()):
        answers.refuse_clash(file.source.path, sorted(clash), "jsonl")
    if raw is not None and row.values is not None:
        start = raw.strip()[:-1].rstrip()
        return f"{start}{', ' if row.values else ''}{_json(members)[1:]}"
    known: Mapping[str, Any] = row.values or dict.fromkeys(file.layout.columns or ())
    return _json({**{name: _plain(value) for name, value in known.items()}, **members})


def _table_line(file: PlannedFile, answers: AnswerColumns, raw: str | None, row: Row, answer: Answer) -> str:
    told, columns = file.source.output_format, file.layout.columns or ()
    if row.values is not None and (more := [name for name in row.values if name not in columns]):
        raise InputError(
            f"{file.source.path}: a row has {', '.join(more)}, which none of the first rows has, and the header is "
            "written. Write JSON lines, which hold any object, with --output-format jsonl"
        )
    if raw is not None and row.values is not None:
        start = raw
    else:
        start = _cells([(row.values or {}).get(name) for name in columns], told)
    return f"{start}{DELIMITERS[told]}{_cells(answers.values(answer, with_row=row.values is None), told)}"


def _cells(values: Sequence[object], told: str) -> str:
    return DELIMITERS[told].join(_cell(value, told) for value in values)


def _cell(value: object, told: str) -> str:
    match value:
        case None:
            text = ""
        case str():
            text = value
        case bool() | float():
            text = repr(value).lower()
        case _:
            plain = _plain(value)
            text = plain if isinstance(plain, str) else _json(plain)
    if told == "tsv":  # which has no quotes
        return text.replace("\t", " ").replace("\r", " ").replace("\n", " ")
    if DELIMITERS[told] in text or not _NEEDS_QUOTES.isdisjoint(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    """Return what JSON can hold of a value of Arrow's."""
    match value:
        case None | str() | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal() | datetime.timedelta():
            return str(value)
        case Mapping():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
    raise _UnwritableError(f"it holds a value of type {type(value).__name__}, which has no form as text")
