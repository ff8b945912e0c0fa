"""Which loss a head is trained with, against the formulas by hand."""

import numpy as np
import pytest
import torch

from q8bert.tasks.glue import glue_task
from q8bert.training.objectives.objective import Classification, Regression, TargetSpec, objective_of


@pytest.mark.parametrize(
    ("task", "kind", "dtype"),
    [
        ("SST-2", Classification, torch.int64),
        ("MNLI", Classification, torch.int64),
        ("STS-B", Regression, torch.float32),
    ],
)
def test_a_head_that_chooses_is_trained_on_label_ids_and_one_that_scores_on_numbers(
    task: str, kind: type, dtype: torch.dtype
) -> None:
    objective = objective_of(glue_task(task).head)
    assert isinstance(objective, kind)
    assert objective.outputs == ("logits",)
    assert objective.targets == {"labels": TargetSpec(dtype, ("batch",))}


def test_classification_is_the_mean_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 3)) * 4, np.array([0, 2, 2, 1, 0])
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(5), labels])
    outputs, targets = {"logits": torch.tensor(logits)}, {"labels": torch.tensor(labels)}
    assert float(Classification().loss(outputs, targets)) == pytest.approx(expected)


def test_regression_is_the_mean_squared_error() -> None:
    scores, labels = np.array([0.5, 3.0, -1.0, 5.0]), np.array([1.0, 3.0, 0.0, 2.5])
    outputs, targets = {"logits": torch.tensor(scores)[:, None]}, {"labels": torch.tensor(labels)}
    assert float(Regression().loss(outputs, targets)) == pytest.approx((0.25 + 0 + 1 + 6.25) / 4)


def test_equal_objectives_are_written_alike_and_others_are_not() -> None:
    assert repr(Classification()) == repr(objective_of(glue_task("RTE").head))
    assert len({repr(Classification()), repr(Regression()), repr(Classification(("logits", "hidden_states")))}) == 3
