"""Rows and answers as Arrow's tables, and a Parquet file of them: groups of rows of a fair size, types as they came."""

import itertools
from collections.abc import Sequence
from typing import Any, BinaryIO

from q8bert.runtime.scoring.answer_columns import Answer, AnswerColumns
from q8bert.runtime.scoring.reading.inputs import Source
from q8bert.runtime.scoring.reading.parquet_files import codec_of
from q8bert.runtime.scoring.reading.records import ArrowPortion, PlannedFile, Portion
from q8bert.runtime.scoring.reading.rows import Row
from q8bert.spec.errors import InputError

__all__ = ["ParquetOutput", "rows_of_arrow", "table_of_output"]

# a group of rows is written when so many rows are there, or so many bytes
_GROUP_ROWS = 65_536
_GROUP_BYTES = 16 << 20


def table_of_output(
    file: PlannedFile, answers: AnswerColumns, portion: Portion, rows: Sequence[tuple[Row, Answer]]
) -> bytes:
    """Join rows with their answers.

    Args:
        file: The file.
        answers: The new columns.
        portion: The rows.
        rows: Each of them and its answer.

    Returns:
        A table in Arrow's format of streams.

    Raises:
        InputError: If a value of a JSON line is not of its column's type, or has no column.
    """
    import pyarrow as pa  # noqa: PLC0415 - optional

    if isinstance(portion, ArrowPortion):
        table = portion.table
    else:
        schema = pa.ipc.read_schema(pa.py_buffer(file.layout.schema))
        values = [dict(row.values or {}) for row, _ in rows]
        if more := set(itertools.chain.from_iterable(values)) - set(schema.names):
            raise InputError(
                _other(file.source, f"a row has {', '.join(sorted(more))}, which none of the first rows has")
            )
        try:
            table = pa.Table.from_pylist(values, schema=schema)
        except UnicodeEncodeError as error:
            raise InputError(
                _other(file.source, "a value holds half a surrogate pair, which JSON alone can spell")
            ) from error
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(_other(file.source, f"a value is not of the type of the first rows ({error})")) from error
    listed = [answers.values(answer, with_row=row.values is None) for row, answer in rows]
    fields = _fields(answers)
    for field, column in zip(fields, zip(*listed, strict=True) if listed else [()] * len(fields), strict=True):
        table = table.append_column(field, pa.array(column, field.type))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def rows_of_arrow(source: Source, portion: ArrowPortion) -> list[dict[str, Any]]:
    """Return the rows of a portion as Python's values by column.

    Args:
        source: The file, for messages.
        portion: The rows.

    Returns:
        A dictionary a row.

    Raises:
        InputError: If a text is no UTF-8, which Parquet alone can hold.
    """
    try:
        return list(portion.table.to_pylist())
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source.path}: a text from row {portion.first_row + 1} on is not UTF-8 ({error}). Leave --output-format "
            "parquet, which keeps it"
        ) from error


class ParquetOutput:
    """A Parquet file that is being written.

    Args:
        output: Where it is written.
        file: The file that it is the output of: its columns and its codec are kept.
        answers: The new columns.
    """

    def __init__(self, output: BinaryIO, file: PlannedFile, answers: AnswerColumns) -> None:
        import pyarrow as pa  # noqa: PLC0415 - optional
        from pyarrow import parquet  # noqa: PLC0415

        schema = pa.ipc.read_schema(pa.py_buffer(file.layout.schema))
        for field in _fields(answers):
            schema = schema.append(field)
        codec = codec_of(file.source.path) if file.source.format == "parquet" else "snappy"
        self._pa, self._held, self._n_rows, self._n_bytes = pa, list[Any](), 0, 0
        self._writer = parquet.ParquetWriter(output, schema, compression=codec)

    def add(self, content: bytes) -> None:
        """Write a table that :func:`table_of_output` made."""
        table = self._pa.ipc.open_stream(content).read_all()
        self._held.append(table)
        self._n_rows += table.num_rows
        self._n_bytes += len(content)
        if self._n_rows >= _GROUP_ROWS or self._n_bytes >= _GROUP_BYTES:
            self._write_group()

    def finish(self) -> None:
        """Write what is held, and the end of the file."""
        self._write_group()
        self._writer.close()

    def abandon(self) -> None:
        """Give the file up: Arrow would else write its end when the writer is collected, to a file that is closed."""
        self._writer.is_open = False

    def _write_group(self) -> None:
        if self._held:
            table = self._pa.concat_tables(self._held)
            self._held, self._n_rows, self._n_bytes = [], 0, 0
            self._writer.write_table(table, row_group_size=table.num_rows or None)


def _fields(answers: AnswerColumns) -> list[Any]:
    import pyarrow as pa  # noqa: PLC0415 - optional

    names = answers.names("parquet")
    kinds = [pa.float32()] if answers.head.is_regression else [pa.string(), *[pa.float32()] * len(answers.head.labels)]
    kinds += [pa.bool_(), *([pa.string()] if answers.with_error else [])]
    return [pa.field(name, kind) for name, kind in zip(names, kinds, strict=True)]


def _other(source: Source, what: str) -> str:
    return f"{source.path}: {what}, and Parquet's columns are fixed. Write JSON lines with --output-format jsonl"
