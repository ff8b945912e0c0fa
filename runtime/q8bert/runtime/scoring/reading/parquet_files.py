"""Parquet files in portions, by Apache Arrow: every column as it is typed, memory bounded however large a group is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from q8bert.data.formats.parquet import opened_parquet
from q8bert.machine.builds import require
from q8bert.runtime.scoring.reading.records import PORTION_BYTES, PORTION_ROWS, PORTIONS_A_UNIT, ArrowPortion, Unit

__all__ = ["codec_of", "parquet_portions", "parquet_schema", "parquet_units", "require_arrow"]

# the rows before a unit in its group are decoded for it too, so there is a limit to how often
_UNITS_A_GROUP = 64


def require_arrow(path: Path) -> None:
    """Refuse a Parquet file, to be read or written, where Arrow is not installed."""
    require("pyarrow", extra="parquet", purpose=f"{path.name}, a Parquet file,")


def parquet_schema(path: Path) -> tuple[Any, int]:
    """Return Arrow's schema of a file, and how many rows it has.

    Args:
        path: The file.

    Returns:
        The schema, with the metadata that the writer left, and the number.

    Raises:
        InputError: If it cannot be read.
        MissingExtraError: If pyarrow is not installed.
    """
    with opened_parquet(path) as file:
        return file.schema_arrow, int(file.metadata.num_rows)


def codec_of(path: Path) -> str:
    """Return the codec that a file's first column is compressed with, as Arrow's writer takes it."""
    with opened_parquet(path) as file:
        groups = file.metadata
        if not groups.num_row_groups or not groups.num_columns:
            return "snappy"
        codec = str(groups.row_group(0).column(0).compression).lower()
        return {"uncompressed": "none", "lz4_raw": "lz4", "lzo": "snappy"}.get(codec, codec)


def parquet_units(path: Path, *, whole: bool) -> list[Unit]:
    """Cut a file: a unit a group of rows, or several where groups are large.

    Args:
        path: The file.
        whole: Whether each group is one unit, for a process that reads all of it.

    Returns:
        Units that have rows, in order.

    Raises:
        InputError: If it cannot be read.
    """
    units: list[Unit] = []
    first_row = 0
    with opened_parquet(path) as file:
        for group in range(file.metadata.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            portion = _portion_rows(file, group)
            n_portions = -(-n_rows // portion)
            step = n_rows if whole else portion * max(PORTIONS_A_UNIT, -(-n_portions // _UNITS_A_GROUP))
            units += [
                Unit(start, min(start + step, n_rows), first_row + start, group)
                for start in range(0, n_rows, step or 1)
            ]
            first_row += n_rows
    return units


def parquet_portions(path: Path, unit: Unit) -> Iterator[ArrowPortion]:
    """Read a unit.

    Args:
        path: The file.
        unit: Group and rows.

    Yields:
        Portions of at most 4096 rows, fewer where the rows of the group are large on average.

    Raises:
        InputError: If it cannot be read.
    """
    import pyarrow as pa  # noqa: PLC0415 - optional

    with opened_parquet(path) as file:
        group, at, first_row = unit.first_line, 0, unit.first_row
        size = _portion_rows(file, group)
        held: list[Any] = []
        n_held = 0
        for batch in file.iter_batches(batch_size=size, row_groups=[group], use_threads=False):
            start, at = at, at + batch.num_rows
            wanted = batch.slice(max(0, unit.start - start), max(0, min(at, unit.stop) - max(start, unit.start)))
            while wanted.num_rows:
                piece = wanted.slice(0, size - n_held)
                wanted = wanted.slice(piece.num_rows)
                held.append(piece)
                n_held += piece.num_rows
                if n_held == size:
                    yield ArrowPortion(first_row, pa.Table.from_batches(held))
                    first_row, held, n_held = first_row + n_held, [], 0
            if at >= unit.stop:
                break
        if held:
            yield ArrowPortion(first_row, pa.Table.from_batches(held))


def _portion_rows(file: Any, group: int) -> int:
    # by the average: of one row nothing is known before it is read
    facts = file.metadata.row_group(group)
    return int(max(1, min(PORTION_ROWS, PORTION_BYTES * facts.num_rows // max(1, facts.total_byte_size))))
