"""Where portions are scored: a stream of them in the order of the files, with None after the last one of each.

This is the stream of one process; :mod:`q8bert.runtime.scoring.ray_data` has that of a cluster.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from q8bert.runtime.scoring.portion_scorer import PortionScorer, ScoredPortion
from q8bert.runtime.scoring.reading.parquet_files import parquet_units
from q8bert.runtime.scoring.reading.records import PlannedFile, Unit
from q8bert.runtime.scoring.reading.text_files import text_units, whole_text

__all__ = ["ScoredStream", "Stream", "local_stream", "units_of"]

ScoredStream: TypeAlias = Iterator[ScoredPortion | None]
Stream: TypeAlias = Callable[[Sequence[PlannedFile]], ScoredStream]


def local_stream(scorer: PortionScorer) -> Stream:
    """Return the stream of this process, which reads each file once and holds one portion at a time."""

    def stream(files: Sequence[PlannedFile]) -> ScoredStream:
        for file in files:
            for unit in _whole(file):
                yield from scorer.scored(file, unit)
            yield None

    return stream


def units_of(file: PlannedFile) -> list[tuple[PlannedFile, Unit]]:
    """Cut a file into what can be scored apart; a text file is read for that, from beginning to end.

    Args:
        file: The file.

    Returns:
        The file and a unit of it, in order.

    Raises:
        InputError: If a file cannot be read.
    """
    units = _cut(file)
    # whether a table looks quoted is known by now, of the whole of it; processes elsewhere begin in other folders
    known = replace(file, source=replace(file.source, path=file.source.path.absolute(), may_be_quoted=False))
    return [(known, unit) for unit in units]


def _whole(file: PlannedFile) -> list[Unit]:
    if file.source.format == "parquet":
        return parquet_units(file.source.path, whole=True)
    return [whole_text(file.layout)]


def _cut(file: PlannedFile) -> list[Unit]:
    if file.source.format == "parquet":
        return parquet_units(file.source.path, whole=False)
    return text_units(file.source, file.layout)
