"""What every reader gives: examples, and the rows that it had to leave out."""

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from q8bert.data.scores import single_precision
from q8bert.spec.errors import InputError
from q8bert.tasks.task import Task

__all__ = [
    "AnyExample", "CellError", "Example", "MalformedRow", "Split", "TokenExample", "example_from_cells", "is_unicode",
    "text_columns",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Example:
    """One row.

    Attributes:
        text: The first or only text.
        text_pair: The second text, or None for a task with one.
        label: Label id, or score for regression, or None where the file has none.
    """

    text: str
    text_pair: str | None = None
    label: int | float | None = None

    def key(self) -> Hashable:
        """Return what two rows share that have the same texts."""
        return self.text, self.text_pair

    def content(self) -> bytes:
        """Return all of it as bytes, for fingerprints."""
        return json.dumps([self.text, self.text_pair, self.label]).encode() + b"\n"


@dataclass(frozen=True, slots=True, eq=False)
class TokenExample:
    """One row that came as token ids, special tokens included and padding left out.

    Attributes:
        input_ids: Int32 ``(n,)``, none of them negative.
        token_type_ids: Int32 ``(n,)``.
        record: Its number in the source, from 1.
        is_pair: Whether it is a row of two texts, as its task has them.
        label: Label id, or score for regression, or None where none was read.
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int32]
    record: int
    is_pair: bool
    label: int | float | None = None

    def key(self) -> Hashable:
        """Return what two rows share that have the same tokens."""
        return self.input_ids.tobytes(), self.token_type_ids.tobytes()

    def content(self) -> bytes:
        """Return all of it as bytes, for fingerprints; where it stood is no part of it."""
        ids, types = (tokens.astype("<i4").tobytes() for tokens in (self.input_ids, self.token_type_ids))
        return json.dumps([len(self.input_ids), self.label]).encode() + b"\n" + ids + types


AnyExample: TypeAlias = Example | TokenExample


@dataclass(frozen=True)
class MalformedRow:
    """A row that cannot be read, and why.

    Attributes:
        file: Path or name of the source.
        row: Its number among the rows of the source, from 0; lines without content and a header are none.
        line: Number of the line on which it begins, from 1.
        column: Name of the column, or its number where the name is not known.
        value: What stands there, shortened.
        reason: What is wrong with it.
        unit: What ``line`` counts: lines of a text file, rows of a table without lines, or records.
    """

    file: str
    row: int
    line: int
    column: str
    value: str
    reason: str
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.line}, column {self.column}: {self.reason}, got {self.value}"


@dataclass(frozen=True)
class Split:
    """All rows of one split of a data set.

    Attributes:
        examples: The rows in file order: all texts, or all token ids.
        source: Where they came from.
        skipped: Malformed rows left out because the caller allowed it.
        notes: What there is to know of the source besides, in sentences.
    """

    examples: tuple[AnyExample, ...]
    source: str
    skipped: tuple[MalformedRow, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())

    def row_numbers(self) -> list[int]:
        """Return the number of each example among all rows of the source, from 0, those left out counted."""
        if tokens := self.tokens():  # records that are none of the data have numbers too
            return [example.record - 1 for example in tokens]
        left_out = {fault.row for fault in self.skipped}
        return [row for row in range(len(self.examples) + len(left_out)) if row not in left_out]

    def tokens(self) -> tuple[TokenExample, ...]:
        """Return the rows if they came as token ids; nothing if they came as texts."""
        return tuple(example for example in self.examples if isinstance(example, TokenExample))

    def columns(self) -> tuple[list[str], list[str] | None]:
        """Return the first texts and the second ones, None for single texts; see :func:`text_columns`."""
        return text_columns(self.examples)

    def labels(self) -> list[int | float]:
        """Return the labels or scores in row order.

        Returns:
            One number a row; scores with the digits that float32 holds (:func:`~q8bert.data.scores.single_precision`).

        Raises:
            InputError: If a row has no label, as in GLUE's test files.
        """
        labels = [example.label for example in self.examples if example.label is not None]
        if len(labels) != len(self.examples):
            raise InputError(f"{self.source} has rows without labels; it can be predicted but not scored")
        scores = [label for label in labels if isinstance(label, float)]
        return [*single_precision(scores)] if len(scores) == len(labels) else labels


def text_columns(examples: Sequence[AnyExample]) -> tuple[list[str], list[str] | None]:
    """Return the texts of examples by column, as tokenizers take them.

    Args:
        examples: Rows of one task: all single texts, or all pairs.

    Returns:
        The first texts, and the second ones or None.

    Raises:
        InputError: If they came as token ids, which have no texts.
    """
    texts = [example for example in examples if isinstance(example, Example)]
    if len(texts) < len(examples):
        raise InputError("the rows are token ids, and texts are needed here; give a file of texts")
    pairs = [example.text_pair for example in texts if example.text_pair is not None]
    return [example.text for example in texts], pairs or None


class CellError(Exception):
    """A fault in one cell, before the file and line are known."""

    def __init__(self, column: str, value: object, reason: str) -> None:
        self.column = column
        self.value = repr(value)[:80]
        self.reason = reason
        super().__init__(column, self.value, reason)

    def __str__(self) -> str:
        return self.reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _cell_error, self.args


def _cell_error(column: str, value: str, reason: str) -> CellError:
    error = CellError(column, None, reason)
    error.value, error.args = value, (column, value, reason)
    return error


def example_from_cells(task: Task, cells: Mapping[str, object], *, labelled: bool) -> Example:
    """Build an example from the cells of one row.

    Args:
        task: Says which cells hold texts and label.
        cells: Values by column name: texts from a table, JSON values from JSON lines.
        labelled: Whether to read the label, which then has to be there.

    Returns:
        The example; its label is None if ``labelled`` is false, whatever stands in that cell.

    Raises:
        CellError: If a cell is missing or holds no possible value.
    """
    text = _text(cells, task.data.text_column)
    pair = _text(cells, task.data.text_pair_column) if task.data.text_pair_column else None
    if not labelled:
        return Example(text, pair)
    if task.data.label_column not in cells:
        raise CellError(task.data.label_column, None, "the label is missing")
    value = cells[task.data.label_column]
    return Example(text, pair, _score(task, value) if task.head.is_regression else _label(task, value))


def _text(cells: Mapping[str, object], column: str) -> str:
    value = cells.get(column)
    if not isinstance(value, str):
        raise CellError(column, value, "a text is missing" if value is None else "expected a text")
    if not is_unicode(value):
        raise CellError(column, value, "half a surrogate pair, which is not valid Unicode")
    if "\0" in value:
        raise CellError(column, value, "a NUL character, which no text has")
    return value


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; JSON can spell half a surrogate pair, which cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _score(task: Task, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise CellError(task.data.label_column, value, "expected a finite number as score")
    return number


def _has_numbers(task: Task) -> bool:
    return any(label.lstrip("-").isdigit() for label in task.head.labels)


def _label(task: Task, value: object) -> int:
    number = task.label_id(value) if isinstance(value, str) else None
    if isinstance(value, int) and not isinstance(value, bool):
        number = task.label_id(str(value))
        # an id, but where labels are numbers themselves: there 0 would be taken for the first of 1, 2, 3
        if number is None and 0 <= value < len(task.head.labels) and not _has_numbers(task):
            number = value
    if number is None:
        known = tuple(dict.fromkeys((*task.data.label_codes, *task.head.labels)))
        nearly = [name for name in known if _plain(name) == _plain(str(value))]
        hint = f"; it is not quite {nearly[0]}" if nearly else ""
        raise CellError(task.data.label_column, value, f"unknown label (allowed: {', '.join(known)}{hint})")
    return number


def _plain(label: str) -> str:
    return label.strip().casefold()
