"""GLUE from the hub, ``nyu-mll/glue``, through the optional ``datasets`` package.

The hub names columns and splits in its own way and writes labels as ids; this turns its rows
into the same examples as the files give.
"""

from collections.abc import Iterable, Mapping
from typing import cast

from q8bert.data.examples import CellError, MalformedRow, Split, example_from_cells
from q8bert.machine.builds import require
from q8bert.spec.errors import InputError
from q8bert.tasks.task import Task

__all__ = ["HUB_PREFIX", "hub_columns", "read_hub_split", "split_from_hub_rows"]

HUB_PREFIX = "hub:"

_PAIR_COLUMNS = {
    "mrpc": ("sentence1", "sentence2"),
    "mnli": ("premise", "hypothesis"),
    "ax": ("premise", "hypothesis"),
}
_SPLITS = {"dev": "validation"}
_MNLI_SPLITS = {
    "dev": "validation_matched",
    "dev_mismatched": "validation_mismatched",
    "test": "test_matched",
    "test_mismatched": "test_mismatched",
}


def read_hub_split(task: Task, source: str, split: str, *, skip_malformed: bool = False) -> Split:
    """Fetch one split of a GLUE task from the hub (or from the hub's cache on disk).

    Args:
        task: A GLUE task.
        source: ``hub:<repository>``, for example ``hub:nyu-mll/glue``.
        split: ``train``, ``dev``, ``test``, and for MNLI ``dev_mismatched``.
        skip_malformed: Leave malformed rows out and list them, instead of failing on the first.

    Returns:
        The examples, in the hub's order.

    Raises:
        InputError: If the task is not on the hub, or the download fails.
    """
    if not task.data.hub_name:
        raise InputError(f"task {task.name} is not on the hub; give the folder of its files as --data-dir")
    require("datasets", extra="hub", purpose=f"reading {source}")
    import datasets  # noqa: PLC0415 - optional, slow to import

    repository = source.removeprefix(HUB_PREFIX)
    hub_split = (_MNLI_SPLITS if task.data.hub_name == "mnli" else _SPLITS).get(split, split)
    try:
        rows = datasets.load_dataset(repository, task.data.hub_name, split=hub_split)
    except Exception as error:
        raise InputError(
            f"{source} ({task.data.hub_name}, {hub_split}) could not be read: {error}. Without access to the hub, "
            "give a folder of GLUE's TSV files as --data-dir"
        ) from error
    name = f"{source}/{task.data.hub_name}/{hub_split}"
    return split_from_hub_rows(
        task, cast("Iterable[Mapping[str, object]]", rows), source=name, skip_malformed=skip_malformed
    )


def hub_columns(task: Task) -> tuple[str, str | None]:
    """Return what the hub calls the first text of a task and the second, which may be what the task calls them."""
    return _PAIR_COLUMNS.get(task.data.hub_name, (task.data.text_column, task.data.text_pair_column))


def split_from_hub_rows(
    task: Task, rows: Iterable[Mapping[str, object]], *, source: str, skip_malformed: bool = False
) -> Split:
    """Turn rows as the hub writes them into examples.

    Args:
        task: A GLUE task.
        rows: Objects with the hub's column names; ``label`` is an id or a score, −1 for "not given".
        source: Name of the split, for messages.
        skip_malformed: Leave malformed rows out and list them, instead of failing on the first.

    Returns:
        One example a row.

    Raises:
        InputError: If a row lacks a text or has an impossible label.
    """
    first, second = hub_columns(task)
    examples, skipped = [], []
    for number, row in enumerate(rows, start=1):
        cells = {task.data.text_column: row.get(first), task.data.label_column: row.get("label")}
        if task.data.text_pair_column and second:
            cells[task.data.text_pair_column] = row.get(second)
        is_labelled = cells[task.data.label_column] != -1  # the hub's mark for "not given"; no GLUE score is negative
        try:
            examples.append(example_from_cells(task, cells, labelled=is_labelled))
        except CellError as error:
            row_fault = MalformedRow(source, number - 1, number, error.column, error.value, error.reason)
            if not skip_malformed:
                raise InputError(str(row_fault)) from error
            skipped.append(row_fault)
    return Split(tuple(examples), source, tuple(skipped))
