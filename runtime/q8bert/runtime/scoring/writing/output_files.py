"""Scored portions become files: each written beside its place and renamed when it is whole, with a record of it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from q8bert.runtime.scoring.answer_columns import AnswerColumns
from q8bert.runtime.scoring.job import FileRecord, Job, fingerprint
from q8bert.runtime.scoring.portion_scorer import N_FAULTS_TOLD, ScoredPortion
from q8bert.runtime.scoring.reading.records import PlannedFile
from q8bert.runtime.scoring.streams import ScoredStream
from q8bert.runtime.scoring.writing.arrow_output import ParquetOutput
from q8bert.runtime.scoring.writing.text_output import head_of_output
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
        stream: Their portions in order, and None after the last one of each file.
        show: Called with every portion that was written.

    Yields:
        Each output, when it stands whole.

    Raises:
        InputError: If a file changed while it was read.
        OutputError: If an output cannot be written.
    """
    for file in files:
        yield _written(job, file, answers, stream, show)


def _written(
    job: Job,
    file: PlannedFile,
    answers: AnswerColumns,
    stream: ScoredStream,
    show: Callable[[ScoredPortion], None],
) -> Written:
    source, faults = file.source, list[str]()
    record = FileRecord(str(source.path), fingerprint(source.path))
    if (record.fingerprint.size, record.fingerprint.mtime_ns) != (file.layout.size, file.layout.mtime_ns):
        raise InputError(f"{source.path} changed after the job was started; start it again when the file is complete")
    job.write(source, record)
    with new_file(job.target(source)) as output, _sink(output, file, answers) as sink:
        while (portion := next(stream)) is not None:
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
            raise InputError(
                f"{source.path} changed while it was scored; start the job again when the file is complete"
            )
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

    def abandon(self) -> None:
        """Nothing would be written later."""


@contextmanager
def _sink(output: BinaryIO, file: PlannedFile, answers: AnswerColumns) -> "Iterator[_Lines | ParquetOutput]":
    is_parquet = file.source.output_format == "parquet"
    sink = ParquetOutput(output, file, answers) if is_parquet else _Lines(output, head_of_output(file, answers))
    try:
        yield sink
    except BaseException:
        sink.abandon()
        raise
