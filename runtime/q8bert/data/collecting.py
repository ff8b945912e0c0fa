"""Rows of a source, one after the other, as examples; malformed ones stop it or are listed."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from q8bert.data.examples import AnyExample, CellError, MalformedRow, Split
from q8bert.spec.errors import InputError

__all__ = ["collected"]

Cells = TypeVar("Cells")


def collected(
    rows: Iterable[tuple[int, Cells | CellError]],
    example_of: Callable[[int, Cells], AnyExample | None],
    *,
    source: str,
    unit: str,
    skip_malformed: bool,
) -> Split:
    """Turn rows into examples.

    Args:
        rows: Number of each, from 1, in units of the source, and its cells, or why it has none.
        example_of: Number and cells → an example, None where the row is none of the data, or a :class:`CellError`.
        source: Path or name of the source.
        unit: What the numbers count, for messages: ``line``, ``row`` or ``record``.
        skip_malformed: Leave malformed rows out and list them, instead of failing on the first.

    Returns:
        The rows.

    Raises:
        InputError: If a row is malformed, or there are no readable rows.
    """
    examples: list[AnyExample] = []
    skipped: list[MalformedRow] = []
    for at, (number, cells) in enumerate(rows):
        try:
            if isinstance(cells, CellError):
                raise cells
            example = example_of(number, cells)
        except CellError as error:
            row = MalformedRow(source, at, number, error.column, error.value, error.reason, unit)
            if not skip_malformed:
                raise InputError(f"{row}. Mend the row, or leave such rows out with --skip-malformed") from error
            skipped.append(row)
        else:
            if example is not None:
                examples.append(example)
    if not examples:
        raise InputError(
            f"{source} has no readable rows ({len(skipped)} malformed)" if skipped else f"{source} has no rows"
        )
    return Split(tuple(examples), source, tuple(skipped))
