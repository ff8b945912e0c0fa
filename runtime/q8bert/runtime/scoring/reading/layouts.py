"""What a file looks like: its columns, which of them are texts, and what its output will have."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from q8bert.data.formats.parquet import is_text
from q8bert.data.formats.text_lines import broken_text, shown_text
from q8bert.data.hub import hub_columns
from q8bert.runtime.scoring.answer_columns import AnswerColumns
from q8bert.runtime.scoring.options import ScoringOptions
from q8bert.runtime.scoring.reading.inputs import Source
from q8bert.runtime.scoring.reading.parquet_files import parquet_schema, require_arrow
from q8bert.runtime.scoring.reading.records import Layout, Record, Unit
from q8bert.runtime.scoring.reading.text_files import header_of, text_portions
from q8bert.spec.errors import ConfigError, InputError
from q8bert.tasks.task import Task

__all__ = ["json_object", "layout_of"]


def layout_of(source: Source, options: ScoringOptions, task: Task, answers: AnswerColumns) -> Layout:
    """Look at how a file begins.

    Args:
        source: The file.
        options: Name columns, where the task's own names do not hold.
        task: Says which texts are needed.
        answers: What the output will have besides.

    Returns:
        The layout.

    Raises:
        ConfigError: If a second text is named for a task that has none.
        InputError: If the file cannot be read, lacks a column, or has one that the answers need.
        MissingExtraError: If it needs Arrow, and that is not installed.
    """
    if options.text_pair is not None and not task.data.has_pairs:
        raise ConfigError([f"text_pair is {options.text_pair!r}, but task {task.name} takes single texts"])
    if "parquet" in {source.format, source.output_format}:
        require_arrow(source.path)
    facts = source.path.stat()
    layout = _of_parquet if source.format == "parquet" else _of_json_lines if source.format == "jsonl" else _of_table
    return replace(layout(source, options, task, answers), size=facts.st_size, mtime_ns=facts.st_mtime_ns)


def json_object(record: Record) -> Mapping[str, Any] | str:
    """Read a JSON line.

    Args:
        record: The line.

    Returns:
        The object, or what is wrong with the line, in words.
    """
    if broken := broken_text("-", record.raw):
        return str(broken.reason.replace("of the cell", "of the line"))
    try:
        row = json.loads(record.raw, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        is_array = record.raw.lstrip().startswith("[")
        hint = "; write the objects of an array one a line, without its brackets" if is_array else ""
        return f"not JSON ({error.msg} at character {error.colno}){hint}"
    except (ValueError, RecursionError) as error:  # a key given twice, thousands of digits, brackets without end
        return f"not readable as JSON ({error})"
    return row if isinstance(row, dict) else "expected a JSON object, one a line"


def _object(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):  # Python would keep the last one and say nothing
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is given twice")
    return row


def _of_table(source: Source, options: ScoringOptions, task: Task, answers: AnswerColumns) -> Layout:
    header, record, start, first_line = header_of(source)
    columns = _columns(source, record)
    text, text_pair = _text_columns(f"{source.path}, line {first_line - 1}: the header", columns, options, task)
    answers.refuse_clash(source.path, columns, source.output_format)
    schema = _serialized(_text_schema(columns)) if source.output_format == "parquet" else b""
    return Layout(
        text=text, text_pair=text_pair, columns=columns, header=header,
        line_end="\r\n" if header.endswith(b"\r\n") else "\n", start=start, first_line=first_line, schema=schema,
    )  # fmt: skip


def _of_json_lines(source: Source, options: ScoringOptions, task: Task, answers: AnswerColumns) -> Layout:
    bom, _, start, first_line = header_of(source)
    first = next(text_portions(source, Unit(start, source.path.stat().st_size, 0, first_line)), None)
    found = [json_object(record) for record in first.records] if first is not None else []
    objects = [row for row in found if not isinstance(row, str)]
    columns = tuple(dict.fromkeys(itertools.chain.from_iterable(objects)))
    if not objects:  # nothing to answer, or nothing that can be: the rows say why
        text, text_pair = options.text or task.data.text_column, options.text_pair or task.data.text_pair_column
    else:
        text, text_pair = _text_columns(f"{source.path}: an object of its first lines", columns, options, task)
        answers.refuse_clash(source.path, columns, source.output_format)
    schema = _serialized(_schema_of_objects(source, objects)) if source.output_format == "parquet" else b""
    return Layout(
        text=text, text_pair=text_pair, columns=None if source.output_format == "jsonl" else columns, header=bom,
        start=start, first_line=first_line, schema=schema,
    )  # fmt: skip


def _of_parquet(source: Source, options: ScoringOptions, task: Task, answers: AnswerColumns) -> Layout:
    schema, n_rows = parquet_schema(source.path)
    columns = tuple(schema.names)
    text, text_pair = _text_columns(f"{source.path}", columns, options, task)
    for name in (text, text_pair):
        if name is not None and not is_text(schema.field(name).type):
            raise InputError(
                f"{source.path}: column {name} is of type {schema.field(name).type}, where texts are needed"
            )
    answers.refuse_clash(source.path, columns, source.output_format)
    if source.output_format != "parquet" and (twice := sorted({name for name in columns if columns.count(name) > 1})):
        raise InputError(f"{source.path}: {', '.join(twice)} is there more than once, which Parquet alone can hold")
    return Layout(text=text, text_pair=text_pair, columns=columns, schema=_serialized(schema), n_rows=n_rows)


def _columns(source: Source, header: Record | None) -> tuple[str, ...]:
    cells = tuple(header.cells or ()) if header is not None else ()
    line = header.line if header is not None else 1
    if any("\r" in name for name in cells):
        raise InputError(f"{source.path}: its lines end in carriage returns alone; save it with line feeds")
    if any(broken_text(name, name) for name in cells):
        raise InputError(f"{source.path}, line {line}: the header is not UTF-8; save it as UTF-8")
    if twice := sorted({name for name in cells if cells.count(name) > 1}):
        raise InputError(
            f"{source.path}, line {line}: column {', '.join(twice)} stands there more than once; rename one"
        )
    return cells


def _text_columns(where: str, columns: Sequence[str], options: ScoringOptions, task: Task) -> tuple[str, str | None]:
    data, (hub_text, hub_pair) = task.data, hub_columns(task)
    text = _column(where, columns, options.text, (data.text_column, "text", hub_text), "--text")
    if data.text_pair_column is None:
        return text, None
    usual = (data.text_pair_column, "text_pair", hub_pair or "text_pair")
    pair = _column(where, columns, options.text_pair, usual, "--text-pair")
    if pair == text:
        raise ConfigError([f"text and text_pair are both {text!r}; a pair has two columns"])
    return text, pair


def _column(where: str, columns: Sequence[str], told: str | None, usual: Sequence[str], option: str) -> str:
    names = (told,) if told is not None else tuple(dict.fromkeys(usual))
    found = [name for name in names if name in columns]
    if len(found) > 1:
        raise InputError(f"{where} has both {' and '.join(found)}; say by {option} which of them is meant")
    if not found:
        shown = shown_text(", ".join(columns)) or "no columns"
        raise InputError(f"{where} lacks {' or '.join(names)}; it has {shown}. Name the column of the text by {option}")
    if columns.count(found[0]) > 1:
        raise InputError(f"{where} has {found[0]} more than once; rename or remove one")
    return found[0]


def _text_schema(columns: Sequence[str]) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - optional

    return pa.schema([(name, pa.string()) for name in columns])


def _schema_of_objects(source: Source, objects: Sequence[Mapping[str, Any]]) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - optional

    try:
        names = list(dict.fromkeys(itertools.chain.from_iterable(objects)))
        types = {name: pa.array([row.get(name) for row in objects]).type for name in names}
        # what was null in all of the first rows may be a text later, and nothing else can be guessed
        return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in types.items()])
    except (pa.ArrowException, OverflowError) as error:
        raise InputError(
            f"{source.path}: its values have no common types, as Parquet needs them ({error}). Write JSON lines instead"
        ) from error


def _serialized(schema: Any) -> bytes:
    return bytes(schema.serialize())
