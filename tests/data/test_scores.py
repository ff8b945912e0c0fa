"""Scores are the same from a table and from float32, and keep every digit that could matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from q8bert.data.examples import Example, Split
from q8bert.data.scores import decimal_of, single_precision


@given(st.floats(-1e6, 1e6, width=32))
def test_a_float32_is_the_shortest_decimal_that_gives_it(score: float) -> None:
    found = decimal_of(np.float32(score))
    assert np.float32(found) == np.float32(score)
    assert len(repr(abs(found)).replace(".", "").strip("0").partition("e")[0]) <= 9


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=30, unique=True))
def test_decimals_of_few_digits_stay_as_they_are(thousandths: list[int]) -> None:
    scores = [number / 1000 for number in thousandths]
    assert single_precision(scores) == scores


@given(st.lists(st.floats(0, 5), min_size=2, max_size=30))
def test_what_float32_holds_is_the_same_from_a_table_and_from_float32(scores: list[float]) -> None:
    scores = [0.0, *scores, 5.0]
    from_records = [decimal_of(np.float32(score)) for score in scores]
    assert single_precision(scores) == single_precision(from_records)


@pytest.mark.parametrize(
    "scores",
    [
        [1.7e9 + number for number in range(5)], [2.0**24 + number for number in range(4)], [1e300, 2e300, 3e300],
        [1e-60, 2e-60, 3e-60], [1 + 1e-9, 1 + 2e-9, 1 + 3e-9], [0.1] * 3, [1e300] * 3, [],
    ],
)  # fmt: skip
def test_scores_that_float32_would_blur_stay_as_they_are(scores: list[float]) -> None:
    assert single_precision(scores) == scores


def test_labels_of_classes_stay_whole_numbers() -> None:
    labels = Split((Example("a", None, 1), Example("b", None, 0)), "x").labels()
    assert [(label, type(label)) for label in labels] == [(1, int), (0, int)]
