"""Rows to time: of the lengths asked for, of the file given, in batches of like length."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q8bert.runtime import Classifier
from q8bert.runtime.bench.rows import TimedRows, rows_of_bundle
from q8bert.spec.errors import InputError


def rows_of(*lengths: int, pairs: bool = False) -> TimedRows:
    texts = tuple(f"text {number}" for number in range(len(lengths)))
    return TimedRows(texts, texts if pairs else None, np.array(lengths), "a test")


@pytest.mark.parametrize("task", ["SST-2", "STS-B"])
def test_rows_that_are_made_have_the_lengths_asked_for(small: Any, task: str) -> None:
    bundle = small.bundle(task, "int8")
    rows = rows_of_bundle(bundle, data=None, format=None, lengths=(9, 16), seed=0)
    found = Classifier.load(bundle, threads=1).encode(rows.texts, rows.pairs)
    assert sorted(set(found.lengths.tolist())) == [9, 16]
    assert not found.truncated
    assert (rows.pairs is None) is (task == "SST-2")
    assert rows.lengths.tolist() == found.lengths.tolist() == sorted(found.lengths)
    assert "9, 16 tokens" in rows.source


def test_without_lengths_they_go_up_to_the_bundles_maximum(small: Any) -> None:
    bundle = small.bundle("SST-2", "int8")
    longest = Classifier.load(bundle, threads=1).bundle.manifest.max_length
    rows = rows_of_bundle(bundle, data=None, format=None, lengths=(), seed=0)
    assert sorted(set(rows.lengths.tolist())) == [longest // 4, longest // 2, longest]


@pytest.mark.parametrize(
    ("length", "message"), [(2, r"2 are special tokens\. Take at least 3"), (10_000, "takes .* at most")]
)
def test_lengths_that_cannot_be_made_are_refused(small: Any, length: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rows_of_bundle(small.bundle("SST-2", "int8"), data=None, format=None, lengths=(length,), seed=0)


def test_rows_of_a_file_are_its_own_shortest_first(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a great and funny film , truly great"}\n{"text": "dull"}\n', encoding="utf-8")
    rows = rows_of_bundle(small.bundle("SST-2", "int8"), data=path, format=None, lengths=(), seed=0)
    assert rows.texts == ("dull", "a great and funny film , truly great")
    assert rows.source == str(path)


def test_a_file_without_rows_is_refused(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("", encoding="utf-8")
    with pytest.raises(InputError):
        rows_of_bundle(small.bundle("SST-2", "int8"), data=path, format=None, lengths=(), seed=0)


def test_batches_hold_neighbours_and_are_spread_over_all_lengths() -> None:
    batches = rows_of(*range(20)).batches(4, 2)
    assert [texts for texts, _ in batches] == [
        [f"text {number}" for number in range(3, 7)],
        [f"text {number}" for number in range(13, 17)],
    ]
    assert [pairs for _, pairs in batches] == [None, None]


@pytest.mark.parametrize(("n_rows", "size", "n_batches"), [(1, 1, 3), (2, 8, 2), (5, 4, 4)])
def test_every_batch_is_full_however_few_the_rows(n_rows: int, size: int, n_batches: int) -> None:
    batches = rows_of(*range(n_rows), pairs=True).batches(size, n_batches)
    assert [len(texts) for texts, _ in batches] == [size] * n_batches
    assert all(texts == pairs for texts, pairs in batches)
