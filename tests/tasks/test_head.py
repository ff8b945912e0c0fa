"""Outputs become probabilities, labels and scores by the formulas."""

import math

import numpy as np
import pytest

from q8bert.tasks.head import CLASSIFICATION, REGRESSION, Head, Prediction

LABELS = Head.of_labels(("no", "yes", "maybe"))
SCORE = Head.of_labels(())


def test_labels_decide_the_kind_and_the_width() -> None:
    assert (LABELS.kind, LABELS.n_outputs, LABELS.is_regression) == (CLASSIFICATION, 3, False)
    assert (SCORE.kind, SCORE.n_outputs, SCORE.is_regression) == (REGRESSION, 1, True)


def test_labels_are_decoded_by_softmax() -> None:
    logits = [1.0, 3.0, -2.0]
    total = sum(math.exp(value) for value in logits)
    expected = [math.exp(value) / total for value in logits]
    (prediction,) = LABELS.decode(np.array([logits], dtype=np.float32))
    assert prediction.label == "yes"
    assert prediction.score is None
    assert prediction.probabilities is not None
    assert list(prediction.probabilities) == ["no", "yes", "maybe"]
    assert list(prediction.probabilities.values()) == pytest.approx(expected, abs=1e-6)


def test_large_logits_do_not_overflow() -> None:
    values = LABELS.activate(np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype=np.float32))
    np.testing.assert_allclose(values, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], atol=1e-6)


def test_scores_are_decoded_as_they_are() -> None:
    logits = np.array([[4.5], [-0.25]], dtype=np.float32)
    assert SCORE.decode(logits) == [Prediction(score=4.5), Prediction(score=-0.25)]
    assert SCORE.decide(logits).tolist() == [4.5, -0.25]
    assert LABELS.decide(np.array([[0, 1, 2], [5, 1, 2]], dtype=np.float32)).tolist() == [2, 0]


def test_no_rows_give_no_predictions() -> None:
    assert LABELS.decode(np.zeros((0, 3), dtype=np.float32)) == []
    assert SCORE.decode(np.zeros((0, 1), dtype=np.float32)) == []


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (Head("ranking"), "kind must be"),
        (Head(CLASSIFICATION, ("one",)), "two or more different names"),
        (Head(CLASSIFICATION, ("a", "a")), "two or more different names"),
        (Head(REGRESSION, ("a", "b")), "left out for regression"),
    ],
)
def test_an_impossible_head_says_why(head: Head, fault: str) -> None:
    (found,) = head.faults()
    assert fault in found
