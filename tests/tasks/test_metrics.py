"""Metrics against formulas by hand."""

import numpy as np
import pytest

from q8bert.spec.errors import InputError
from q8bert.tasks.glue import glue_task
from q8bert.tasks.metrics import refuse_undefined, score


def one_hot(predictions: list[int]) -> np.ndarray:
    return np.eye(max(*predictions, 1) + 1, dtype=np.float32)[predictions]


def test_accuracy_f1_and_matthews_follow_their_formulas() -> None:
    predictions, labels = [1, 1, 1, 0, 0, 1, 0, 1], [1, 0, 1, 1, 0, 1, 0, 0]
    tp, fp, fn, tn = 3, 2, 1, 2
    found = score(glue_task("MRPC"), one_hot(predictions), labels)
    assert found["accuracy"] == pytest.approx((tp + tn) / 8)
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    matthews = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert score(glue_task("CoLA"), one_hot(predictions), labels) == {"matthews": pytest.approx(matthews)}


def test_correlations_follow_their_formulas_with_ties() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 4.0, 9.0]), np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    ranks_x, ranks_y = np.array([1.0, 2.5, 2.5, 4.0, 5.0]), np.array([1.0, 3.0, 2.0, 5.0, 4.0])

    def pearson(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(), b - b.mean()
        return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))

    found = score(glue_task("STS-B"), x[:, None].astype(np.float32), y.tolist())
    assert found == {"pearson": pytest.approx(pearson(x, y)), "spearman": pytest.approx(pearson(ranks_x, ranks_y))}


def test_nothing_told_apart_scores_zero_and_impossible_logits_are_refused() -> None:
    same = np.ones((3, 1), dtype=np.float32)
    assert score(glue_task("STS-B"), same, [1.0, 2.0, 3.0]) == {"pearson": 0.0, "spearman": 0.0}
    assert score(glue_task("CoLA"), one_hot([1, 1, 1]), [0, 1, 1]) == {"matthews": 0.0}
    with pytest.raises(InputError, match="not finite"):
        score(glue_task("STS-B"), same * np.nan, [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="3 predictions against 2 labels"):
        score(glue_task("STS-B"), same, [1.0, 2.0])


@pytest.mark.parametrize(
    ("task", "labels", "reason"),
    [
        ("CoLA", [1, 1, 1], "matthews is undefined there, whatever a model predicts: every row is 'acceptable'"),
        ("STS-B", [2.5, 2.5], "pearson is undefined there, whatever a model predicts: every row has the score 2.5"),
        ("STS-B", [2.5], "pearson is undefined"),
        ("MRPC", [0, 0], "f1 is undefined there, whatever a model predicts: no row is 'equivalent', the label that F1"),
    ],
)
def test_labels_on_which_the_main_metric_says_nothing_are_refused(
    task: str, labels: list[int | float], reason: str
) -> None:
    with pytest.raises(InputError, match=f"dev.tsv: {reason}"):
        refuse_undefined(glue_task(task), labels, source="dev.tsv")


def test_labels_on_which_it_says_something_are_taken() -> None:
    for task, labels in (("CoLA", [0, 1]), ("STS-B", [1.0, 2.0]), ("MRPC", [1, 1]), ("RTE", [0, 0])):
        refuse_undefined(glue_task(task), labels, source="dev.tsv")
