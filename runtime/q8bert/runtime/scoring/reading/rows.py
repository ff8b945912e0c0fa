"""Rows of a portion: what the model is to read of each, or why it cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from q8bert.data.examples import CellError, Example, example_from_cells
from q8bert.data.formats.text_lines import broken_text
from q8bert.runtime.scoring.answer_columns import Fault
from q8bert.runtime.scoring.reading.layouts import json_object
from q8bert.runtime.scoring.reading.records import ArrowPortion, PlannedFile, Portion, Record
from q8bert.tasks.task import Task

__all__ = ["Row", "RowReader"]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        place: Where it stands, for example ``line 7``.
        found: Its texts, or why there are none.
        values: Its cells by column; None where they cannot be told apart, and of Arrow's tables, which keep them.
    """

    place: str
    found: Example | Fault
    values: Mapping[str, Any] | None


@dataclass(frozen=True)
class RowReader:
    """Reads the rows of one file.

    Attributes:
        file: The file.
        task: The bundle's task.
    """

    file: PlannedFile
    task: Task

    def rows(self, portion: Portion) -> list[Row]:
        """Return the rows of a portion, in order."""
        if isinstance(portion, ArrowPortion):
            return self._of_arrow(portion)
        read = self._of_object if self.file.source.format == "jsonl" else self._of_cells
        return [read(record) for record in portion.records]

    @cached_property
    def _task_here(self) -> Task:
        # the columns of this file in place of the task's own
        data = replace(self.task.data, text_column=self.file.layout.text, text_pair_column=self.file.layout.text_pair)
        return replace(self.task, data=data)

    def _found(self, place: str, cells: Mapping[str, object], raw: str = "") -> Example | Fault:
        try:
            return example_from_cells(self._task_here, cells, labelled=False)
        except CellError as error:
            return Fault(place, f"column {error.column}: {error.reason}, got {error.value}", _shown(raw))

    def _of_cells(self, record: Record) -> Row:
        cells, columns = record.cells or (), self.file.layout.columns or ()
        place = f"line {record.line}"
        broken = next((fault for name, cell in zip(columns, cells, strict=False)
                       if (fault := broken_text(name, cell))), None)  # fmt: skip
        if broken is not None:
            return Row(place, Fault(place, f"column {broken.column}: {broken.reason}", _shown(record.raw)), None)
        if len(cells) != len(columns):
            # a lost or added delimiter shifts every later cell: nothing in the row can be trusted
            reason = f"the row has {len(cells)} columns instead of {len(columns)}"
            return Row(place, Fault(place, reason, _shown(record.raw)), None)
        values = dict(zip(columns, cells, strict=True))
        return Row(place, self._found(place, values), values)

    def _of_object(self, record: Record) -> Row:
        place, row = f"line {record.line}", json_object(record)
        if isinstance(row, str):
            return Row(place, Fault(place, row, _shown(record.raw)), None)
        return Row(place, self._found(place, row), row)

    def _of_arrow(self, portion: ArrowPortion) -> list[Row]:
        names = [name for name in (self.file.layout.text, self.file.layout.text_pair) if name is not None]
        texts = [_texts(portion.table.column(name)) for name in names]
        rows: list[Row] = []
        for number, cells in enumerate(zip(*texts, strict=True), start=portion.first_row + 1):
            broken = next((cell for cell in cells if isinstance(cell, CellError)), None)
            place = f"row {number}"
            found = (
                Fault(place, f"{broken.reason}, got {broken.value}")
                if broken is not None
                else self._found(place, dict(zip(names, cells, strict=True)))
            )
            rows.append(Row(place, found, None))
        return rows


def _texts(column: Any) -> Sequence[object]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_text(cell) for cell in column]


def _text(cell: Any) -> object:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return CellError("-", error.object, f"not UTF-8 at byte {error.start} of the cell")


def _shown(raw: str) -> str:
    # bytes that are no UTF-8 as \xff, so that none is lost
    return raw.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
