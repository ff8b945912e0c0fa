"""One portion of one file scored: the same code wherever it runs, so the answers are the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from q8bert.data.examples import Example, text_columns
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.predict.classifier import Classifier
from q8bert.runtime.scoring.answer_columns import Answer, AnswerColumns, Fault
from q8bert.runtime.scoring.options import ScoringOptions
from q8bert.runtime.scoring.reading.inputs import Source
from q8bert.runtime.scoring.reading.parquet_files import parquet_portions
from q8bert.runtime.scoring.reading.records import ArrowPortion, Layout, PlannedFile, Portion, Unit
from q8bert.runtime.scoring.reading.rows import Row, RowReader
from q8bert.runtime.scoring.reading.text_files import text_portions
from q8bert.runtime.scoring.writing.arrow_output import rows_of_arrow, table_of_output
from q8bert.runtime.scoring.writing.text_output import lines_of_output
from q8bert.spec.errors import BundleError, InputError
from q8bert.tasks.head import Prediction

__all__ = ["N_FAULTS_TOLD", "PortionScorer", "ScoredPortion"]

# of a portion and of a job; the rest are counted, and stand in the output
N_FAULTS_TOLD = 20


@dataclass(frozen=True)
class ScoredPortion:
    """Rows with their answers, ready to be written.

    Attributes:
        content: Lines, or a table of Arrow where the output is Parquet.
        n_rows: How many rows.
        n_truncated: How many of them lost tokens.
        n_malformed: How many of them have no answer.
        faults: Why not, of the first of them.
        weight: Bytes of the input that they stand for, of a Parquet file by their share of its rows.
    """

    content: bytes
    n_rows: int
    n_truncated: int
    n_malformed: int
    faults: tuple[str, ...]
    weight: int


class PortionScorer:
    """A loaded bundle and what is to be done with rows.

    Args:
        classifier: The bundle.
        options: How rows are read, answered and written.
    """

    def __init__(self, classifier: Classifier, options: ScoringOptions) -> None:
        self.classifier, self._options = classifier, options
        self.answers = AnswerColumns(classifier.task.head, options.prefix, options.skip_malformed)

    @classmethod
    def load(cls, bundle: Path, options: ScoringOptions) -> "PortionScorer":
        """Load a bundle as a job of many rows needs it.

        Args:
            bundle: Its folder.
            options: Say engine, providers, form of the model and threads.

        Returns:
            The scorer.

        Raises:
            BundleError: As for :meth:`~q8bert.runtime.predict.classifier.Classifier.load`, and so are others.
        """
        how = RuntimeOptions.batch(threads=options.threads, bfloat16=options.bfloat16)
        classifier = Classifier.load(
            bundle, engine=options.engine, providers=options.providers, options=how, on_long=options.on_long,
            graph=options.graph,
        )  # fmt: skip
        return cls(classifier, options)

    def scored(self, file: PlannedFile, unit: Unit) -> Iterator[ScoredPortion]:
        """Score a unit of a file.

        Args:
            file: The file.
            unit: Where the rows stand.

        Yields:
            Its portions, in order.

        Raises:
            InputError: If the file cannot be read, or a row cannot and malformed rows are not skipped.
            BundleError: If the model fails on a row, and malformed rows are not skipped.
        """
        source = file.source
        reader = RowReader(file, self.classifier.task)
        is_parquet = source.format == "parquet"
        portions: Iterator[Portion] = parquet_portions(source.path, unit) if is_parquet else text_portions(source, unit)
        for portion in portions:
            rows = reader.rows(portion)
            answers = self._answers(source, rows)
            faults = [str(answer) for answer in answers if isinstance(answer, Fault)]
            yield ScoredPortion(
                content=self._written(file, portion, rows, answers),
                n_rows=portion.n_rows,
                n_truncated=sum(isinstance(answer, Prediction) and answer.truncated for answer in answers),
                n_malformed=len(faults),
                faults=tuple(faults[:N_FAULTS_TOLD]),
                weight=_weight(file.layout, portion),
            )

    def _answers(self, source: Source, rows: Sequence[Row]) -> list[Answer]:
        for row in rows:
            if isinstance(row.found, Fault) and not self._options.skip_malformed:
                raise InputError(
                    f"{source.path}, {row.found}. Mend the row, or let such rows have no answer with --skip-malformed"
                )
        whole = [row.found for row in rows if isinstance(row.found, Example)]
        outcomes = self.classifier.answers(*text_columns(whole), batch_size=self._options.batch_size) if whole else []
        given = iter(outcomes)
        return [row.found if isinstance(row.found, Fault) else self._answer(source, next(given), row) for row in rows]

    def _answer(self, source: Source, outcome: Prediction | InputError | BundleError, row: Row) -> Answer:
        if isinstance(outcome, Prediction):
            return outcome
        if not self._options.skip_malformed:
            raise type(outcome)(f"{source.path}, {row.place}: {outcome}") from outcome
        return Fault(row.place, str(outcome))

    def _written(self, file: PlannedFile, portion: Portion, rows: Sequence[Row], answers: Sequence[Answer]) -> bytes:
        pairs = list(zip(rows, answers, strict=True))
        if file.source.output_format == "parquet":
            return table_of_output(file, self.answers, portion, pairs)
        if isinstance(portion, ArrowPortion):
            values = rows_of_arrow(file.source, portion)
            pairs = [(replace(row, values=cells), answer) for cells, (row, answer) in zip(values, pairs, strict=True)]
            return lines_of_output(file, self.answers, None, pairs)
        return lines_of_output(file, self.answers, portion, pairs)


def _weight(layout: Layout, portion: Portion) -> int:
    if isinstance(portion, ArrowPortion):
        return layout.size * portion.n_rows // max(1, layout.n_rows)
    return portion.stop - portion.start
