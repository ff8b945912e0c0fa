"""What a teacher adds to the loss, and to its gradients, against the formulas in numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from q8bert.tasks.glue import glue_task
from q8bert.training.objectives.distillation import Distilled
from q8bert.training.objectives.objective import Classification, Regression, TargetSpec, objective_of

LABELS = np.array([0, 2, 2, 1, 0])


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def loss_and_gradient(objective: Distilled, logits: Any, labels: Any, teacher: Any) -> tuple[float, NDArray[Any]]:
    outputs = {"logits": torch.tensor(logits, requires_grad=True)}
    targets = {"labels": torch.tensor(labels), "teacher_logits": torch.tensor(teacher)}
    loss = objective.loss(outputs, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = outputs["logits"].grad
    assert gradient is not None
    return float(loss.detach()), gradient.numpy()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_classification_learns_softened_logits_times_the_squared_temperature(temperature: float, weight: float) -> None:
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=(5, 3)) * 4, rng.normal(size=(5, 3)) * 4
    objective = Distilled(Classification(), n_outputs=3, temperature=temperature, weight=weight)
    loss, gradient = loss_and_gradient(objective, z, LABELS, t)
    p, q = softmax(t / temperature), softmax(z / temperature)
    hard = -np.log(softmax(z)[np.arange(5), LABELS]).mean()
    soft = (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    assert loss == pytest.approx((1 - weight) * hard + weight * temperature**2 * soft)
    # d hard / dz = (softmax(z) - one_hot) / n, d (T² soft) / dz = T (q - p) / n
    expected = (1 - weight) * (softmax(z) - np.eye(3)[LABELS]) / 5 + weight * temperature * (q - p) / 5
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn_of_it() -> None:
    z = np.random.default_rng(0).normal(size=(5, 3))
    objective = Distilled(Classification(), n_outputs=3, temperature=2.0, weight=1.0)
    loss, gradient = loss_and_gradient(objective, z, LABELS, z + 3.0)  # softmax does not see a common term
    assert loss == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-12)


def test_regression_learns_the_teachers_scores() -> None:
    scores, labels, taught = np.array([0.5, 3.0, -1.0]), np.array([1.0, 3.0, 0.0]), np.array([0.0, 2.0, -1.0])
    objective = Distilled(Regression(), n_outputs=1, temperature=2.0, weight=0.25)
    loss, gradient = loss_and_gradient(objective, scores[:, None], labels, taught[:, None])
    assert loss == pytest.approx(0.75 * (0.25 + 0 + 1) / 3 + 0.25 * (0.25 + 1 + 0) / 3)
    expected = 0.75 * 2 * (scores - labels) / 3 + 0.25 * 2 * (scores - taught) / 3
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-12)


@pytest.mark.parametrize(("task", "n_outputs", "dtype"), [("MNLI", 3, torch.int64), ("STS-B", 1, torch.float32)])
def test_the_teachers_outputs_are_targets_beside_the_labels(task: str, n_outputs: int, dtype: torch.dtype) -> None:
    head = glue_task(task).head
    objective = Distilled(objective_of(head), n_outputs=head.n_outputs, temperature=2.0, weight=0.5)
    assert objective.outputs == ("logits",)
    assert objective.targets == {
        "labels": TargetSpec(dtype, ("batch",)), "teacher_logits": TargetSpec(torch.float32, ("batch", n_outputs)),
    }  # fmt: skip


def test_every_other_way_to_learn_from_a_teacher_has_programs_of_its_own() -> None:
    ways = [
        Distilled(labels, n_outputs=n_outputs, temperature=temperature, weight=weight)
        for labels in (Classification(), Regression())
        for n_outputs in (1, 2)
        for temperature in (1.0, 2.0)
        for weight in (0.5, 1.0)
    ]
    assert len({repr(way) for way in ways}) == len(ways)
