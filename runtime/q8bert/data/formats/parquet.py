"""Parquet, by Apache Arrow's reader: columns by their names, a batch of rows at a time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from q8bert.data.examples import CellError
from q8bert.data.hub import hub_columns
from q8bert.data.scores import decimal_of
from q8bert.machine.builds import require
from q8bert.spec.errors import InputError
from q8bert.tasks.task import Task

__all__ = ["is_text", "opened_parquet", "parquet_columns", "parquet_rows"]

_ROWS = 1024
# a column is read in pieces of so many bytes, however large a group of rows is
_BUFFER = 1 << 20
_Cells: TypeAlias = Mapping[str, object]


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Return the names of a file's columns.

    Args:
        path: The file.

    Returns:
        Their names.

    Raises:
        InputError: If it cannot be read.
        MissingExtraError: If pyarrow is not installed.
    """
    with opened_parquet(path) as file:
        return tuple(file.schema_arrow.names)


def parquet_rows(path: Path, *, task: Task, labelled: bool) -> Iterator[tuple[int, _Cells | CellError]]:
    """Read the rows of a file; memory does not grow with it.

    Args:
        path: The file.
        task: Its columns go by its own names, by ``text``, ``text_pair`` and ``label``, or by those of the hub.
        labelled: Whether the label's column is needed.

    Yields:
        Number of each row, from 1, and its cells by the task's names.

    Raises:
        InputError: If it cannot be read, lacks a column, or has one of another type.
        MissingExtraError: If pyarrow is not installed.
    """
    with opened_parquet(path) as file:
        columns = _columns(path, file.schema_arrow, task, labelled=labelled)
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS, columns=list(columns.values()), use_threads=False):
            cells = [_values(name, batch.column(name)) for name in columns.values()]
            for row in zip(*cells, strict=True):
                number += 1
                fault = next((value for value in row if isinstance(value, CellError)), None)
                yield number, fault or dict(zip(columns, row, strict=True))


@contextmanager
def opened_parquet(path: Path) -> Iterator[Any]:
    """Open a file; whatever Arrow raises of it in the block becomes an :class:`InputError`.

    Args:
        path: The file.

    Yields:
        Arrow's ``ParquetFile``, which reads a column in pieces.

    Raises:
        InputError: If it cannot be read.
        MissingExtraError: If pyarrow is not installed.
    """
    require("pyarrow", extra="parquet", purpose=f"reading {path}")
    import pyarrow  # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415

    try:
        if not path.stat().st_size:
            raise InputError(f"{path} is empty")
        with parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True) as file:
            try:
                _ = file.schema_arrow.names
            except UnicodeDecodeError as error:
                raise InputError(_unreadable(path, error)) from error
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{path} is not readable as Parquet: {first}. Copy or write it again, or name its --format"


def is_text(kind: Any) -> bool:
    """Whether a column of this type of Arrow holds texts, or nothing at all."""
    from pyarrow import types  # noqa: PLC0415 - optional

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)
    )


def _columns(path: Path, schema: Any, task: Task, *, labelled: bool) -> dict[str, str]:
    """Return the names in the file by those of the task."""
    data, (first, second) = task.data, hub_columns(task)
    wanted: dict[str, tuple[str | None, ...]] = {data.text_column: ("text", first)}
    if data.text_pair_column is not None:
        wanted[data.text_pair_column] = ("text_pair", second)
    if labelled:
        wanted[data.label_column] = ("label",)
    columns: dict[str, str] = {}
    missing: list[str] = []
    for name, others in wanted.items():
        found = [other for other in dict.fromkeys((name, *others)) if other is not None and other in schema.names]
        if len(found) > 1:
            raise InputError(f"{path}: both {found[0]} and {found[1]} are there, and they mean the same; remove one")
        if not found:
            missing.append(name)
            continue
        if schema.names.count(found[0]) > 1:
            raise InputError(f"{path}: column {found[0]} stands there more than once; rename or remove one")
        _check_type(path, schema.field(found[0]), is_label=name == data.label_column)
        columns[name] = found[0]
    if missing:
        raise InputError(
            f"{path} lacks column {', '.join(missing)}; it has {', '.join(schema.names) or 'none'}. A --task-file says "
            f"what the columns are called"
        )
    return columns


def _check_type(path: Path, field: Any, *, is_label: bool) -> None:
    from pyarrow import types  # noqa: PLC0415 - optional

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind)
    if not is_text(kind) and not (is_label and is_number):
        expected = "labels or numbers" if is_label else "texts"
        raise InputError(f"{path}: column {field.name} is of type {field.type}, where {expected} are needed")


def _values(name: str, column: Any) -> list[object]:
    from pyarrow import types  # noqa: PLC0415 - optional

    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = [_value(name, cell) for cell in column]
    kinds = {types.is_float32: np.float32, types.is_float16: np.float16}
    narrow = next((kind for of, kind in kinds.items() if of(column.type)), None)
    if narrow is not None:
        return [None if value is None else decimal_of(narrow(value)) for value in values]
    return list(values)


def _value(name: str, cell: Any) -> object:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return CellError(name, cell.as_buffer().to_pybytes(), f"not UTF-8 at byte {error.start} of the cell")
