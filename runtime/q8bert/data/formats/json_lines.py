"""JSON lines: an object a line, with the task's own column names or with ``text``, ``text_pair`` and ``label``."""

import json
from collections.abc import Iterable, Iterator, Mapping

from q8bert.data.examples import CellError
from q8bert.data.formats.tables import Row
from q8bert.data.formats.text_lines import broken_text
from q8bert.tasks.task import Task

__all__ = ["json_rows"]


def json_rows(lines: Iterable[str], *, task: Task) -> Iterator[Row]:
    """Read the rows of a file of JSON lines.

    Args:
        lines: Its lines; those without content are no rows.
        task: Its columns go by its own names or by the general ones.

    Yields:
        Each row.
    """
    names: dict[str, str] = {"text": task.data.text_column, "label": task.data.label_column}
    if task.data.text_pair_column:
        names["text_pair"] = task.data.text_pair_column
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, _cells(line.rstrip("\r\n"), names)
            except CellError as error:
                yield number, error


def _cells(line: str, names: Mapping[str, str]) -> Mapping[str, object]:
    if broken := broken_text("-", line):
        raise broken
    try:
        row = json.loads(line, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        is_array = line.lstrip().startswith("[")
        hint = "; write the objects of an array one a line, without its brackets" if is_array else ""
        raise CellError(str(error.colno), line, f"not JSON ({error.msg}){hint}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise CellError("-", line, f"not readable as JSON ({error})") from error
    if not isinstance(row, Mapping):
        raise CellError("-", line, "expected a JSON object, one a line")
    for alias, column in names.items():
        if alias != column and alias in row and column in row:
            raise CellError(alias, line, f"both {alias} and {column} are given, and they mean the same")
    return {names.get(key, key): value for key, value in row.items()}


def _object(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):  # Python would keep the last one and say nothing
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CellError(twice, dict(pairs), f"{twice} is given twice")
    return row
