"""Where portions are scored: a stream of them in the order of the files, each with the number of its file.

This is the stream of one process; :mod:`q8bert.runtime.scoring.ray_data` has that of a cluster.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from q8bert.runtime.scoring.parquet_files import parquet_units
from q8bert.runtime.scoring.portion_scorer import PortionScorer, ScoredPortion
from q8bert.runtime.scoring.records import PlannedFile, Unit
from q8bert.runtime.scoring.text_files import text_units, whole_text

__all__ = ["ScoredStream", "Stream", "all_units", "local_stream"]

ScoredStream: TypeAlias = Iterator[tuple[int, ScoredPortion]]
Stream: TypeAlias = Callable[[Sequence[PlannedFile]], ScoredStream]


def local_stream(scorer: PortionScorer) -> Stream:
    """Return the stream of this process, which reads each file once and holds one portion at a time."""

    def stream(files: Sequence[PlannedFile]) -> ScoredStream:
        for number, file in enumerate(files):
            for unit in _whole(file):
                for portion in scorer.scored(file, unit):
                    yield number, portion

    return stream


def all_units(files: Sequence[PlannedFile]) -> list[tuple[int, PlannedFile, Unit]]:
    """Cut files into what can be scored apart; text files are read for that, from beginning to end.

    Args:
        files: The files.

    Returns:
        Number of the file, the file, and a unit of it, in order.

    Raises:
        InputError: If a file cannot be read.
    """
    return [
        # whether a table looks quoted is known by now, of the whole of it
        (number, replace(file, source=replace(file.source, may_be_quoted=False)), unit)
        for number, file in enumerate(files)
        for unit in _cut(file)
    ]


def _whole(file: PlannedFile) -> list[Unit]:
    if file.source.format == "parquet":
        return parquet_units(file.source.path, whole=True)
    return [whole_text(file.layout)]


def _cut(file: PlannedFile) -> list[Unit]:
    if file.source.format == "parquet":
        return parquet_units(file.source.path, whole=False)
    return text_units(file.source, file.layout)
