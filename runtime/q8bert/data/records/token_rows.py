"""Columns of a record → a row of token ids, where they are what Google's ``run_classifier.py`` writes.

A row has ``input_ids``, ``input_mask`` (1 on tokens, 0 on the padding behind them), ``segment_ids`` (0 for the first
text, 1 for the second) and ``label_ids``, and may have ``is_real_example``, which is 0 for rows that only fill a batch.
Whether the ids are those of a vocabulary is seen where rows are encoded (:mod:`q8bert.data.encoding`).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q8bert.data.examples import CellError, TokenExample
from q8bert.data.records.schema import RecordSchema, kind_of
from q8bert.data.scores import decimal_of
from q8bert.tasks.task import Task

__all__ = ["IDS", "LABEL", "MASK", "SEGMENTS", "TokenRows"]

IDS, MASK, SEGMENTS, LABEL, _REAL = "input_ids", "input_mask", "segment_ids", "label_ids", "is_real_example"
_SHOWN = 8
_LARGEST = 2**31 - 1
# run_classifier.py numbers the labels of its tasks in an order of its own; GLUE has that of the hub
_ORDER_OF_LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    dict.fromkeys(("mnli", "ax"), ("contradiction", "entailment", "neutral"))
)


class TokenRows:
    """Makes rows of the records of one file, and counts what there is to say of them.

    Args:
        task: What labels mean, and whether rows are pairs.
        labelled: Whether labels are read, which every row must then have.
        schema: What columns must be, where a schema says it.
    """

    def __init__(self, task: Task, *, labelled: bool, schema: RecordSchema | None) -> None:
        self._task = task
        self._labelled = labelled
        self._schema = schema
        labels = task.head.labels
        order = _ORDER_OF_LABELS.get(task.data.hub_name, labels)
        self._label_ids = tuple(labels.index(name) for name in order)
        self._length: int | None = None
        self._n_filling = 0
        self._n_full = 0
        self._n_rows = 0

    def example(self, record: int, columns: Mapping[str, NDArray[Any]]) -> TokenExample | None:
        """Make a row of one record.

        Args:
            record: Its number, from 1.
            columns: Its columns, each of one dimension.

        Returns:
            The row; None for one that only fills a batch.

        Raises:
            CellError: If the record is not what it should be.
        """
        if self._schema is not None:
            self._schema.check(columns)
        if not self._is_real(columns):
            self._n_filling += 1
            return None
        ids, mask, types = (self._tokens(columns, name) for name in (IDS, MASK, SEGMENTS))
        n_tokens = _n_tokens(mask)
        if len(np.unique(ids[n_tokens:])) > 1:
            raise CellError(MASK, mask[:_SHOWN].tolist(), "tokens under the mask's zeros, where padding should be")
        label = self._label(columns) if self._labelled else None
        self._n_rows += 1
        self._n_full += n_tokens == len(ids)
        return TokenExample(
            input_ids=ids[:n_tokens].astype(np.int32),
            token_type_ids=types[:n_tokens].astype(np.int32),
            record=record,
            is_pair=self._task.data.has_pairs,
            label=label,
        )

    def notes(self) -> list[str]:
        """Return what there is to know of the rows so far, in sentences."""
        notes = []
        if self._labelled and self._task.head.labels:
            named = ", ".join(self._task.head.labels[number] for number in self._label_ids)
            notes.append(f"{LABEL} {', '.join(map(str, range(len(self._label_ids))))} are taken for {named}")
        if self._n_filling:
            notes.append(f"{self._n_filling} records with {_REAL} 0, which only fill a batch, were left out")
        if self._n_full:
            notes.append(
                f"{self._n_full} of {self._n_rows} rows fill all {self._length} places; what was longer lost text when "
                "the file was written"
            )
        return notes

    def _is_real(self, columns: Mapping[str, NDArray[Any]]) -> bool:
        if _REAL not in columns:
            return True
        values = columns[_REAL]
        if kind_of(values) != "integers" or values.tolist() not in ([0], [1]):
            raise CellError(_REAL, values[:_SHOWN].tolist(), "expected a single 0 or 1")
        return bool(values[0])

    def _tokens(self, columns: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
        values = _integers(columns, name)
        length = len(columns[IDS])
        if len(values) != length:
            raise CellError(name, values[:_SHOWN].tolist(), f"{len(values)} values, but {IDS} has {length}")
        if self._length is None and length:
            self._length = length
        if length != self._length:
            expected = f"the records before it have {self._length}" if self._length else "there are none"
            raise CellError(name, values[:_SHOWN].tolist(), f"{length} values, but {expected}")
        if values.min() < 0 or values.max() > _LARGEST:
            at = int(np.flatnonzero((values < 0) | (values > _LARGEST))[0])
            raise CellError(name, int(values[at]), f"no possible id at place {at}")
        return values

    def _label(self, columns: Mapping[str, NDArray[Any]]) -> int | float:
        if LABEL not in columns:
            raise CellError(LABEL, None, "the label is missing")
        values = columns[LABEL]
        if len(values) != 1:
            raise CellError(LABEL, values[:_SHOWN].tolist(), f"{len(values)} values, where there is one label")
        return self._score(values) if self._task.head.is_regression else self._label_id(values)

    def _score(self, values: NDArray[Any]) -> float:
        if kind_of(values) != "floats":
            # int(score) has lost what stood behind the point
            raise CellError(LABEL, values.tolist(), f"{kind_of(values)}, where a score is written as a float")
        score = decimal_of(values[0])
        if not math.isfinite(score):
            raise CellError(LABEL, score, "expected a finite number as score")
        return score

    def _label_id(self, values: NDArray[Any]) -> int:
        if kind_of(values) != "integers":
            raise CellError(LABEL, values.tolist(), f"{kind_of(values)}, where a label is written as a whole number")
        number = int(values[0])
        if not 0 <= number < len(self._label_ids):
            named = ", ".join(self._task.head.labels[of] for of in self._label_ids)
            raise CellError(LABEL, number, f"expected 0 to {len(self._label_ids) - 1}, for {named}")
        return self._label_ids[number]


def _integers(columns: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    for needed in (IDS, name):
        if needed not in columns:
            raise CellError(needed, None, f"the column is missing; the record has {', '.join(sorted(columns))}")
    values = columns[name]
    if kind_of(values) != "integers":
        raise CellError(name, values[:_SHOWN].tolist(), f"{kind_of(values)}, where ids are whole numbers")
    return values


def _n_tokens(mask: NDArray[Any]) -> int:
    if mask.max() > 1:
        raise CellError(MASK, int(mask.max()), "expected 0 and 1 alone")
    n_tokens = int(mask.sum())
    if not n_tokens:
        raise CellError(MASK, mask[:_SHOWN].tolist(), "the row has no tokens")
    if not mask[0]:
        raise CellError(MASK, mask[:_SHOWN].tolist(), "padding before the tokens; rows are padded behind them")
    if not mask[:n_tokens].all():
        at = int(np.flatnonzero(mask == 0)[0])
        raise CellError(MASK, mask[:_SHOWN].tolist(), f"a hole at place {at}, with tokens behind it")
    return n_tokens
