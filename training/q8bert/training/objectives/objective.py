"""What is learned: the outputs of a model that are read, the targets they are compared with, and the loss.

An engine knows mappings of named inputs, targets and outputs, and no label; what they mean stands in a value of this
kind. A new one (soft targets of a teacher, tags, spans) is a class with these three attributes and one method.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from q8bert.tasks.head import Head

__all__ = ["Classification", "Objective", "Regression", "TargetSpec", "objective_of"]


@dataclass(frozen=True)
class TargetSpec:
    """What a target looks like.

    Attributes:
        dtype: Type of its elements.
        axes: Sizes; ``batch`` and ``seq`` stand for those of the batch.
    """

    dtype: torch.dtype
    axes: tuple[int | str, ...] = ("batch",)


class Objective(Protocol):
    """Targets and loss. A value: two equal ones have the same ``repr``, which names a training program in the cache."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs that are read, as Hugging Face's output objects name them."""
        ...

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """What each named target looks like."""
        ...

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            outputs: Float32 tensors by the names in :attr:`outputs`.
            targets: Tensors by the names in :attr:`targets`.

        Returns:
            Float32 scalar.
        """
        ...


@dataclass(frozen=True)
class Classification:
    """One of several labels a row: the cross-entropy of ``logits`` and ``labels``."""

    outputs: tuple[str, ...] = ("logits",)

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """Label ids, int64 ``(batch,)``."""
        return {"labels": TargetSpec(torch.int64)}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy of ``logits``, ``(batch, n_labels)``."""
        return nn.functional.cross_entropy(outputs["logits"], targets["labels"])


@dataclass(frozen=True)
class Regression:
    """One score a row: the squared error of ``logits`` and ``labels``."""

    outputs: tuple[str, ...] = ("logits",)

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """Scores, float32 ``(batch,)``."""
        return {"labels": TargetSpec(torch.float32)}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Return the mean squared error of ``logits``, ``(batch, 1)``."""
        return nn.functional.mse_loss(outputs["logits"][:, 0], targets["labels"])


def objective_of(head: Head) -> Objective:
    """Return what a head is trained for."""
    return Regression() if head.is_regression else Classification()
