"""Readers of data files: texts or token ids, by the ending of their names or as they are told."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, BinaryIO

from q8bert.data.collecting import collected
from q8bert.data.examples import Example, Split, example_from_cells
from q8bert.data.formats.foreign_files import N_HEAD_BYTES, what_else_it_is
from q8bert.data.formats.json_lines import json_rows
from q8bert.data.formats.parquet import parquet_rows
from q8bert.data.formats.quoting import QuoteCount
from q8bert.data.formats.tables import Row, table_rows
from q8bert.data.formats.text_lines import text_lines
from q8bert.data.hub import HUB_PREFIX, read_hub_split
from q8bert.data.records.reader import read_records
from q8bert.spec.checked import checked
from q8bert.spec.errors import InputError
from q8bert.spec.kinds import one_of
from q8bert.tasks.data_set import FORMATS, TOKEN_FORMATS
from q8bert.tasks.task import Task

__all__ = ["Format", "format_of", "read_file", "read_split"]

Format = Annotated[str, one_of(FORMATS)] | None

# endings that say how a file is written; any other says nothing
_FORMAT_OF_ENDING: Mapping[str, str] = MappingProxyType({
    ".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
    ".tfrecord": "tfrecord", ".tf_record": "tfrecord", ".tfrecords": "tfrecord", ".mindrecord": "mindrecord",
})  # fmt: skip
# what run_classifier.py calls its file of a split
_OTHER_NAMES: Mapping[str, str] = MappingProxyType({"dev": "eval.tf_record"})
# Quora's file stands in GLUE as Quora wrote it, quoted, and is read with its quotes by all who report scores on it
_READ_WITH_QUOTES = ("qqp",)


def format_of(path: Path, told: str | None) -> str | None:
    """Return how a file is written: as it was told, else as its ending says; None where neither does."""
    return told or _FORMAT_OF_ENDING.get(path.suffix.lower())


@checked
def read_split(
    task: Task,
    data_dir: str | Path,
    split: str,
    *,
    format: Format = None,  # noqa: A002 - as on the command line
    schema: Path | str | None = None,
    skip_malformed: bool = False,
) -> Split:
    """Read one split of a task's folder, labels included.

    Args:
        task: The task.
        data_dir: The task's own folder, or ``hub:nyu-mll/glue`` to fetch it from the hub.
        split: ``train``, ``dev`` or another split that the task knows.
        format: How its file is written, one of :data:`~q8bert.tasks.data_set.FORMATS`; see :func:`read_file`.
        schema: JSON schema of TFRecord files.
        skip_malformed: Leave malformed rows out and list them, instead of failing on the first.

    Returns:
        Examples, every one with a label (but for the hub's test splits, which have none).

    Raises:
        InputError: If the folder, the file or a row is not as it should be.
    """
    if str(data_dir).startswith(HUB_PREFIX):
        if format is not None:
            raise InputError(f"format {format} is for files, but the rows come from {data_dir}")
        return read_hub_split(task, str(data_dir), split, skip_malformed=skip_malformed)
    folder = Path(data_dir)
    if not folder.is_dir():
        raise InputError(
            f"data folder {folder} does not exist; --data-dir is the task's own folder, e.g. GLUE/{task.name}"
        )
    named = task.data.files.get(split)
    names = [f"{split}{ending}" for ending in (".tsv", *_FORMAT_OF_ENDING)] if named is None else [named]
    if named is None and split in _OTHER_NAMES:
        names.append(_OTHER_NAMES[split])
    there = [name for name in names if (folder / name).is_file()]
    if not there:
        present = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise InputError(
            f"{folder} has no {' or '.join(names)} for the {split} split of {task.name}; it holds {present}"
        )
    if len(there) > 1:
        raise InputError(
            f"{folder} has {' and '.join(there)} for the {split} split of {task.name}; leave one of them there, or "
            "name it in the [files] of a task file"
        )
    return read_file(
        task, folder / there[0], labelled=True, format=format, schema=schema, skip_malformed=skip_malformed
    )


@checked
def read_file(
    task: Task,
    path: Path | str,
    *,
    labelled: bool,
    format: Format = None,  # noqa: A002 - as on the command line
    schema: Path | str | None = None,
    skip_malformed: bool = False,
) -> Split:
    """Read one file: a table, JSON lines, Parquet, or records of token ids.

    JSON lines and Parquet have the task's own column names, or ``text``, ``text_pair`` and ``label``.

    Args:
        task: The task whose columns the file has.
        path: The file.
        labelled: Whether labels are read, which every row must then have.
        format: How it is written, one of :data:`~q8bert.tasks.data_set.FORMATS`. By default its ending says so, then
            the task; what neither knows is an unquoted tab-separated table, and is refused where it looks quoted.
        schema: JSON schema of a TFRecord file.
        skip_malformed: Leave malformed rows out and list them, instead of failing on the first.

    Returns:
        The rows in file order.

    Raises:
        InputError: If the file is missing, empty, not what it is read as or lacks a column, or on the first malformed
            row.
        MissingExtraError: If a library that reads it is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file")
    told = format_of(path, format) or task.data.format
    if told in TOKEN_FORMATS:
        return read_records(
            task, path, file_format=str(told), labelled=labelled, schema=None if schema is None else Path(schema),
            skip_malformed=skip_malformed,
        )  # fmt: skip
    if schema is not None:
        raise InputError(f"the schema {schema} is of TFRecord files, and {path} is none; leave it out")
    if told == "parquet":
        rows = parquet_rows(path, task=task, labelled=labelled)
        return _collected(rows, task, path, labelled=labelled, unit="row", skip_malformed=skip_malformed)
    quotes = QuoteCount() if told is None and task.data.hub_name not in _READ_WITH_QUOTES else None
    try:
        with path.open("rb") as file:
            rows = _rows(file, task, path, labelled=labelled, file_format=told or "tsv", quotes=quotes)
            split = _collected(rows, task, path, labelled=labelled, unit="line", skip_malformed=skip_malformed)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if quotes is not None and quotes.looks_quoted():
        raise InputError(
            f"{path} looks quoted: its cells with quotes begin and end with one, and double those within. Give "
            "--format quoted-tsv to read it without them, or --format tsv to take them as text"
        )
    return split


def _rows(
    file: BinaryIO,
    task: Task,
    path: Path,
    *,
    labelled: bool,
    file_format: str,
    quotes: QuoteCount | None,
) -> Iterator[Row]:
    head = file.read(N_HEAD_BYTES)
    if not head:
        raise InputError(f"{path} is empty")
    if foreign := what_else_it_is(head):
        raise InputError(f"{path} {foreign}")
    file.seek(0)
    if file_format == "jsonl":
        return json_rows(text_lines(file), task=task)
    return table_rows(text_lines(file), task=task, path=path, labelled=labelled, file_format=file_format, quotes=quotes)


def _collected(
    rows: Iterator[Row], task: Task, path: Path, *, labelled: bool, unit: str, skip_malformed: bool
) -> Split:
    def example_of(_: int, cells: Mapping[str, object]) -> Example:
        return example_from_cells(task, cells, labelled=labelled)

    return collected(rows, example_of, source=str(path), unit=unit, skip_malformed=skip_malformed)
