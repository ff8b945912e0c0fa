"""Scored portions become files: each written beside its place and renamed when it is whole, with a record of it."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from q8bert.runtime.scoring.answer_columns import AnswerColumns
from q8bert.runtime.scoring.arrow_output import ParquetOutput
from q8bert.runtime.scoring.job import FileRecord, Job, fingerprint
from q8bert.runtime.scoring.portion_scorer import N_FAULTS_TOLD, ScoredPortion
from q8bert.runtime.scoring.records import PlannedFile
from q8bert.runtime.scoring.streams import ScoredStream
from q8bert.runtime.scoring.text_output import head_of_output
from q8bert.spec.errors import InputError
from q8bert.spec.files import new_file

__all__ = ["Written", "write_outputs"]


@dataclass(frozen=True)
class Written:
    """One output that stands whole.

    Attributes:
        record: What is kept of it.
        faults: Why rows have no answer, of the first of them, with the file's name.
    """

    record: FileRecord
    faults: tuple[str, ...]


def write_outputs(
    job: Job,
    files: Sequence[PlannedFile],
    answers: AnswerColumns,
    stream: ScoredStream,
    *,
    show: Callable[[ScoredPortion], None],
) -> Iterator[Written]:
    """Write the outputs of a job, one after the other.

    Args:
        job: Where they stand, and what is kept of them.
        files: The files.
        answers: The new columns.
        stream: Their portions in order.
        show: Called with every portion that was written.

    Yields:
        Each output, when it stands whole.

    Raises:
        InputError: If a file changed while it was read.
        OutputError: If an output cannot be written.
    """
    groups = itertools.groupby(stream, key=lambda item: item[0])
    ahead = next(groups, None)
    for number, file in enumerate(files):
        is_here = ahead is not None and ahead[0] == number  # a file without rows has no portions
        portions = (portion for _, portion in ahead[1]) if ahead is not None and is_here else iter(())
        yield _written(job, file, answers, portions, show)
        if is_here:
            ahead = next(groups, None)


def _written(
    job: Job,
    file: PlannedFile,
    answers: AnswerColumns,
    portions: Iterable[ScoredPortion],
    show: Callable[[ScoredPortion], None],
) -> Written:
    source, faults = file.source, list[str]()
    record = FileRecord(str(source.path), fingerprint(source.path))
    job.write(source, record)
    with new_file(job.target(source)) as output:
        sink = _sink(output, file, answers)
        for portion in portions:
            sink.add(portion.content)
            record = dataclasses.replace(
                record,
                n_rows=record.n_rows + portion.n_rows,
                n_truncated=record.n_truncated + portion.n_truncated,
                n_malformed=record.n_malformed + portion.n_malformed,
            )
            faults += portion.faults[: N_FAULTS_TOLD - len(faults)]
            show(portion)
        sink.finish()
        if not record.fingerprint.is_of(source.path):
            raise InputError(f"{source.path} changed while it was scored; start again when it is complete")
        n_bytes = output.tell()
    record = dataclasses.replace(record, output_bytes=n_bytes)
    job.write(source, record)
    return Written(record, tuple(f"{source.path}, {fault}" for fault in faults))


class _Lines:
    """A text file that is being written."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self._file = file
        self.add(head)

    def add(self, content: bytes) -> None:
        """Write lines."""
        self._file.write(content)

    def finish(self) -> None:
        """Nothing is held back."""


def _sink(output: BinaryIO, file: PlannedFile, answers: AnswerColumns) -> "_Lines | ParquetOutput":
    if file.source.output_format == "parquet":
        return ParquetOutput(output, file, answers)
    return _Lines(output, head_of_output(file, answers))
