"""Rows for a model without training: those that it is calibrated with, and others that it is measured on."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from q8bert.data.examples import AnyExample, Split
from q8bert.data.readers import read_file
from q8bert.data.row_source import RowSource
from q8bert.spec.errors import InputError
from q8bert.tasks.task import Task

__all__ = ["CALIBRATION_ROWS", "HELD_OUT_ROWS", "DividedRows", "divide", "read_rows"]

CALIBRATION_ROWS = 512
HELD_OUT_ROWS = 512
# of few rows, those that are held out to be measured on
_HELD_OUT_SHARE = 0.2
# what a range can rest on at all
_FEWEST_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class DividedRows:
    """Rows of one source in two parts, drawn at random; no text stands in both.

    Attributes:
        calibration: Rows that ranges are observed on; without labels.
        held_out: Rows that the model is measured on.
    """

    calibration: Split
    held_out: Split


def read_rows(
    task: Task,
    source: Path | None,
    splits: RowSource | None,
    *,
    labelled: bool,
    format: str | None,  # noqa: A002 - as on the command line
    skip_malformed: bool,
) -> Split:
    """Read rows of a file, or the training split of a task.

    Args:
        task: Says which columns they have.
        source: The file; None for the training split.
        splits: Where that is; None where a file is given alone.
        labelled: Whether labels are wanted of a file; those of a training split are always read.
        format: How the file is written.
        skip_malformed: Leave malformed rows out instead of stopping.

    Returns:
        The rows.

    Raises:
        InputError: If they cannot be read.
    """
    if source is None:
        return (splits or RowSource()).read(task, "train")
    return read_file(task, source, labelled=labelled, format=format, skip_malformed=skip_malformed)


def divide(split: Split, *, n_calibration: int, n_held_out: int, seed: int) -> DividedRows:
    """Draw rows to calibrate with, and others to measure on.

    Args:
        split: All rows.
        n_calibration: How many to calibrate with, at most.
        n_held_out: How many to measure on, at most.
        seed: Of the draw.

    Returns:
        The two parts. Where there are not rows enough for both, a fifth is held out.

    Raises:
        InputError: If there are too few rows to divide.
    """
    # a text that stands twice is one: measured on what it was calibrated with, a model would flatter itself
    by_text = {example.key(): example for example in split.examples}
    examples = list(by_text.values())
    if len(examples) < _FEWEST_ROWS:
        raise InputError(
            f"{split.source} has {len(examples)} different rows; at least {_FEWEST_ROWS} are needed to calibrate and "
            "to measure, and some hundred are better. Give more rows, as the model will meet them"
        )
    order = np.random.default_rng(seed).permutation(len(examples))
    n_calibration = min(n_calibration, len(examples) - int(np.ceil(_HELD_OUT_SHARE * len(examples))))
    calibration, held_out = order[:n_calibration], order[n_calibration:][:n_held_out]
    return DividedRows(
        calibration=Split(tuple(_without_label(examples[row]) for row in calibration), split.source),
        held_out=Split(tuple(examples[row] for row in held_out), split.source),
    )


def _without_label(example: AnyExample) -> AnyExample:
    return replace(example, label=None)
