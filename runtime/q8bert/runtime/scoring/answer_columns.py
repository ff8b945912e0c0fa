"""The columns that a job adds to those of the input, and what stands in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from q8bert.spec.errors import InputError
from q8bert.tasks.head import Head, Prediction

__all__ = ["Answer", "AnswerColumns", "Fault"]


@dataclass(frozen=True)
class Fault:
    """Why a row has no answer.

    Attributes:
        place: Where the row stands, for example ``line 7``.
        reason: What is wrong with it.
        row: The row as it stands, where the output has no other place for it.
    """

    place: str
    reason: str
    row: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


Answer = Prediction | Fault


@dataclass(frozen=True)
class AnswerColumns:
    """Names and values of the new columns.

    In tables every probability has a column, ``probability_<label>``; in JSON lines all are one object,
    ``probabilities``, as ``q8bert predict`` writes it.

    Attributes:
        head: Says whether there are labels or scores.
        prefix: What the names begin with.
        with_error: Whether there is a column for what is wrong with a row.
    """

    head: Head
    prefix: str
    with_error: bool

    def names(self, output_format: str) -> tuple[str, ...]:
        """Return their names in order, in an output of this format."""
        own = ["score"] if self.head.is_regression else ["label"]
        if not self.head.is_regression:
            is_nested = output_format == "jsonl"
            own += ["probabilities"] if is_nested else [f"probability_{label}" for label in self.head.labels]
        own += ["truncated", *(["error"] if self.with_error else [])]
        return tuple(self.prefix + name for name in own)

    def refuse_clash(self, where: object, columns: Sequence[str], output_format: str) -> None:
        """Refuse to write over a column of the input.

        Args:
            where: The input, for the message.
            columns: What it has.
            output_format: How the output is written.

        Raises:
            InputError: If a new column has the name of one that is there.
        """
        if clash := [name for name in self.names(output_format) if name in columns]:
            raise InputError(
                f"{where} has {', '.join(clash)} already, and an answer of that name would replace or shadow it. Give "
                f"another beginning to the names of the answers, such as --prefix {self.prefix}predicted_"
            )

    def values(self, answer: Answer, *, with_row: bool) -> list[Any]:
        """Return what stands in the columns of a table.

        Args:
            answer: The answer to a row.
            with_row: Whether a faulty row that has no other place stands in the error.

        Returns:
            Texts, numbers and truth values in order, None where there is nothing.
        """
        if isinstance(answer, Fault):
            empty = [None] * (len(self.names("csv")) - 1)
            return [*empty, _told(answer, with_row=with_row)]
        own: list[Any] = [answer.score] if self.head.is_regression else [answer.label, *_shares(answer)]
        return [*own, answer.truncated, *([None] if self.with_error else [])]

    def members(self, answer: Answer, *, with_row: bool) -> Mapping[str, Any]:
        """Return what is added to a JSON object; arguments are those of :meth:`values`."""
        names = self.names("jsonl")
        if isinstance(answer, Fault):
            return {**dict.fromkeys(names), names[-1]: _told(answer, with_row=with_row)}
        own: list[Any] = [answer.score] if self.head.is_regression else [answer.label, answer.probabilities]
        return dict(zip(names, [*own, answer.truncated, *([None] if self.with_error else [])], strict=True))


def _shares(answer: Prediction) -> list[float]:
    return list((answer.probabilities or {}).values())


def _told(fault: Fault, *, with_row: bool) -> str:
    return f"{fault}; the row is: {fault.row}" if with_row and fault.row else str(fault)
