"""What a model's outputs mean: how many there are, how they are named, and how they become predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASSIFICATION", "REGRESSION", "Head", "Prediction"]

# the names that Hugging Face gives to kinds of problems
CLASSIFICATION = "single_label_classification"
REGRESSION = "regression"


@dataclass(frozen=True)
class Prediction:
    """The answer for one row.

    Attributes:
        label: Most probable label; None for regression.
        probabilities: Probability of each label; None for regression.
        score: Predicted score; None for classification.
        truncated: Whether the row was longer than the bundle's maximum length and lost tokens.
    """

    label: str | None = None
    probabilities: Mapping[str, float] | None = None
    score: float | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Head:
    """The outputs of a model.

    Attributes:
        kind: :data:`CLASSIFICATION`, one of several labels, by softmax; or :data:`REGRESSION`, a score as it is.
        labels: Label names in id order; empty for regression.
    """

    kind: str
    labels: tuple[str, ...] = ()

    @classmethod
    def of_labels(cls, labels: tuple[str, ...]) -> "Head":
        """Return the head that chooses one of some labels, or gives a score where there are none."""
        return cls(CLASSIFICATION if labels else REGRESSION, labels)

    @property
    def is_regression(self) -> bool:
        """Whether the target is a number instead of a label."""
        return self.kind == REGRESSION

    @property
    def n_outputs(self) -> int:
        """Width of the logits: number of labels, or 1 for regression."""
        return len(self.labels) or 1

    def activate(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what logits stand for.

        Args:
            logits: Float32 ``(n, n_outputs)``.

        Returns:
            Float32 of the same shape: probabilities that add up to 1 in each row, or the scores themselves.
        """
        if self.is_regression:
            return logits
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        result: NDArray[np.float32] = shifted / shifted.sum(axis=1, keepdims=True)
        return result

    def decide(self, logits: NDArray[np.floating[Any]]) -> NDArray[np.int64] | NDArray[np.floating[Any]]:
        """Return what is compared with the labels of a data set.

        Args:
            logits: ``(n, n_outputs)``.

        Returns:
            Label ids, int64 ``(n,)``, or scores of the type of the logits, ``(n,)``.
        """
        if self.is_regression:
            return logits[:, 0]
        ids: NDArray[np.int64] = logits.argmax(axis=1)
        return ids

    def decode(self, logits: NDArray[np.float32]) -> list[Prediction]:
        """Turn logits into predictions.

        Args:
            logits: Float32 ``(n, n_outputs)``.

        Returns:
            One prediction a row.
        """
        values = self.activate(logits)
        if self.is_regression:
            return [Prediction(score=float(value)) for value in values[:, 0]]
        return [
            Prediction(self.labels[int(row.argmax())], dict(zip(self.labels, row.tolist(), strict=True)))
            for row in values
        ]

    def faults(self) -> list[str]:
        """Return what is wrong with the definition, in words; empty when nothing is."""
        faults = []
        if self.kind not in {CLASSIFICATION, REGRESSION}:
            faults.append(f"kind must be {CLASSIFICATION} or {REGRESSION}, got {self.kind!r}")
        if len(self.labels) == 1 or len(set(self.labels)) != len(self.labels):
            faults.append(
                f"labels must be two or more different names (or none, for regression), got {list(self.labels)}"
            )
        if self.is_regression and self.labels:
            faults.append(f"labels must be left out for regression, got {list(self.labels)}")
        return faults
