"""A file of token ids → its rows."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from q8bert.data.collecting import collected
from q8bert.data.examples import CellError, Split
from q8bert.data.formats.foreign_files import N_HEAD_BYTES, known_start
from q8bert.data.records.framing import framed_records
from q8bert.data.records.message import ExampleParser
from q8bert.data.records.mind import mind_records
from q8bert.data.records.schema import RecordSchema, read_schema
from q8bert.data.records.token_rows import IDS, LABEL, MASK, SEGMENTS, TokenRows
from q8bert.spec.errors import InputError
from q8bert.tasks.task import Task

__all__ = ["read_records"]

_Record: TypeAlias = tuple[int, dict[str, NDArray[Any]] | CellError]


def read_records(
    task: Task, path: Path, *, file_format: str, labelled: bool, schema: Path | None, skip_malformed: bool
) -> Split:
    """Read a file of token ids.

    Args:
        task: What labels mean, and whether rows are pairs.
        path: The file.
        file_format: ``tfrecord`` or ``mindrecord``.
        labelled: Whether labels are read, which every row must then have.
        schema: JSON schema of a TFRecord file; None where there is none.
        skip_malformed: Leave malformed records out and list them, instead of failing on the first.

    Returns:
        The rows in file order.

    Raises:
        InputError: If the file cannot be read, or on the first malformed record.
        MissingExtraError: If a library that reads it is not installed.
    """
    if schema is not None and file_format != "tfrecord":
        raise InputError(f"the schema {schema} is of TFRecord files, and {path} is read as {file_format}")
    needed = (IDS, MASK, SEGMENTS, *((LABEL,) if labelled else ()))
    limits = None if schema is None else read_schema(schema, needed=needed)
    rows = TokenRows(task, labelled=labelled, schema=limits)
    notes: list[str] = []
    records = mind_records(path) if file_format == "mindrecord" else _tf_records(path)
    if limits is not None and limits.n_rows is not None:
        records = _first(records, limits, notes)
    split = collected(records, rows.example, source=str(path), unit="record", skip_malformed=skip_malformed)
    return replace(split, notes=tuple(f"{path}: {note}" for note in (*notes, *rows.notes())))


def _tf_records(path: Path) -> Iterator[_Record]:
    parser = ExampleParser()
    try:
        with path.open("rb") as file:
            head = file.read(N_HEAD_BYTES)
            if not head:
                raise InputError(f"{path} is empty")
            if foreign := known_start(head):
                raise InputError(f"{path} {foreign}")
            file.seek(0)
            for number, content in framed_records(file, path):
                yield number, content if isinstance(content, CellError) else _columns(parser, content)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _columns(parser: ExampleParser, content: bytes) -> dict[str, NDArray[Any]] | CellError:
    try:
        return parser.columns(content)
    except CellError as error:
        return error


def _first(records: Iterable[_Record], limits: RecordSchema, notes: list[str]) -> Iterator[_Record]:
    """Yield as many records as a schema allows, and note whether that were all."""
    n_rows = limits.n_rows or 0
    for number, record in records:
        if number > n_rows:
            notes.append(f"numRows of {limits.path} is {n_rows}: the records after that were not read")
            return
        yield number, record
