"""Readers of data files: GLUE's TSV with all its quirks, and JSON lines.

GLUE's files are tab-separated without any quoting, so a lone ``"`` is an ordinary character;
some start with a byte order mark, CoLA's train and dev have no header line, and rows may contain
characters such as U+2028 that Python's ``splitlines`` takes for line ends. So lines are split at
line feeds alone, and each is decoded by itself, which lets a fault be named by line and column.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from q8bert.data.examples import CellError, Example, MalformedRow, Split, example_from_cells
from q8bert.data.hub import HUB_PREFIX, read_hub_split
from q8bert.spec.errors import InputError
from q8bert.tasks.task import Task

__all__ = ["read_file", "read_split"]

_BOM = b"\xef\xbb\xbf"
_JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")

_ParseLine: TypeAlias = Callable[[bytes], Example]


def read_split(task: Task, data_dir: str | Path, split: str, *, skip_malformed: bool = False) -> Split:
    """Read one split of a task's folder, labels included.

    Args:
        task: The task.
        data_dir: The task's own folder, or ``hub:nyu-mll/glue`` to fetch it from the hub.
        split: ``train``, ``dev`` or another split that the task knows.
        skip_malformed: Leave malformed rows out and list them, instead of failing on the first.

    Returns:
        Examples, every one with a label (but for the hub's test splits, which have none).

    Raises:
        InputError: If the folder, the file or a row is not as it should be.
    """
    if str(data_dir).startswith(HUB_PREFIX):
        return read_hub_split(task, str(data_dir), split, skip_malformed=skip_malformed)
    folder = Path(data_dir)
    if not folder.is_dir():
        raise InputError(
            f"data folder {folder} does not exist; --data-dir is the task's own folder, e.g. GLUE/{task.name}"
        )
    named = task.data.files.get(split)
    names = [f"{split}{suffix}" for suffix in (".tsv", *_JSON_SUFFIXES)] if named is None else [named]
    for name in names:
        if (folder / name).is_file():
            return read_file(task, folder / name, labelled=True, skip_malformed=skip_malformed)
    present = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise InputError(f"{folder} has no {' or '.join(names)} for the {split} split of {task.name}; it holds {present}")


def read_file(task: Task, path: Path, *, labelled: bool, skip_malformed: bool = False) -> Split:
    """Read one file, TSV or JSON lines by its ending.

    JSON lines hold one object a line with the task's own column names, or with ``text``,
    ``text_pair`` and ``label``.

    Args:
        task: The task whose columns the file has.
        path: The file.
        labelled: Whether labels are read, which every row must then have.
        skip_malformed: Leave malformed rows out and list them, instead of failing on the first.

    Returns:
        The rows in file order.

    Raises:
        InputError: If the file is missing, empty or lacks a column, or on the first malformed row.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file")
    lines = path.read_bytes().removeprefix(_BOM).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise InputError(f"{path} is empty")
    if path.suffix in _JSON_SUFFIXES:
        return _read_rows(path, lines, 1, _json_line_parser(task, labelled=labelled), skip_malformed=skip_malformed)
    columns, n_header = _columns(task, path, lines[0], labelled=labelled)
    parse = _tsv_line_parser(task, columns, labelled=labelled)
    return _read_rows(path, lines[n_header:], n_header + 1, parse, skip_malformed=skip_malformed)


def _read_rows(path: Path, lines: list[bytes], first_line: int, parse: _ParseLine, *, skip_malformed: bool) -> Split:
    examples: list[Example] = []
    skipped: list[MalformedRow] = []
    for number, line in enumerate(lines, start=first_line):
        try:
            examples.append(parse(line.removesuffix(b"\r")))
        except CellError as error:
            row = MalformedRow(str(path), number, error.column, error.value, error.reason)
            if not skip_malformed:
                raise InputError(f"{row}. Mend the row, or leave such rows out with --skip-malformed") from error
            skipped.append(row)
    if not examples:
        raise InputError(f"{path} has no readable rows ({len(skipped)} malformed)")
    return Split(tuple(examples), str(path), tuple(skipped))


def _columns(task: Task, path: Path, first_line: bytes, *, labelled: bool) -> tuple[list[str], int]:
    """Return the column names of a TSV file and how many header lines it has."""
    header = first_line.removesuffix(b"\r").decode("utf-8", errors="replace").split("\t")
    if task.data.headerless_columns and task.data.text_column not in header:
        return list(task.data.headerless_columns), 0
    needed = [task.data.text_column, task.data.text_pair_column, task.data.label_column if labelled else None]
    missing = [name for name in needed if name is not None and name not in header]
    if missing:
        raise InputError(
            f"{path}, line 1: the header lacks column {', '.join(missing)}; it has {', '.join(header)}. "
            f"Is this a tab-separated {task.name} file?"
        )
    twice = [name for name in needed if name is not None and header.count(name) > 1]
    if twice:
        raise InputError(f"{path}, line 1: column {', '.join(twice)} stands there more than once; rename or remove one")
    return header, 1


def _tsv_line_parser(task: Task, columns: list[str], *, labelled: bool) -> _ParseLine:
    def parse(line: bytes) -> Example:
        cells = [_decode(cell, columns, number) for number, cell in enumerate(line.split(b"\t"))]
        if len(cells) != len(columns):
            # a lost or added tab shifts every later cell: nothing in the row can be trusted
            at = columns[len(cells)] if len(cells) < len(columns) else str(len(columns) + 1)
            raise CellError(at, cells[-1], f"the row has {len(cells)} columns instead of {len(columns)}")
        return example_from_cells(task, dict(zip(columns, cells, strict=True)), labelled=labelled)

    return parse


def _json_line_parser(task: Task, *, labelled: bool) -> _ParseLine:
    names: dict[str, str] = {"text": task.data.text_column, "label": task.data.label_column}
    if task.data.text_pair_column:
        names["text_pair"] = task.data.text_pair_column

    def parse(line: bytes) -> Example:
        text = _decode(line, ["-"], 0)
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise CellError(str(error.colno), text, f"not JSON ({error.msg})") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
            raise CellError("-", text, f"not readable as JSON ({error})") from error
        if not isinstance(row, Mapping):
            raise CellError("-", text, "expected a JSON object")
        for alias, column in names.items():
            if alias != column and alias in row and column in row:
                raise CellError(alias, text, f"both {alias} and {column} are given, and they mean the same")
        cells: dict[str, object] = {names.get(str(key), str(key)): value for key, value in row.items()}
        return example_from_cells(task, cells, labelled=labelled)

    return parse


def _decode(cell: bytes, columns: list[str], number: int) -> str:
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError as error:
        name = columns[number] if number < len(columns) else str(number + 1)
        raise CellError(name, cell, f"not UTF-8 at byte {error.start} of the cell") from error
