"""What is learned: the outputs of a model that are read, the targets they are compared with, and the loss.

An engine knows mappings of named inputs, targets and outputs, and no label; what they mean stands in a value of this
kind. A new one (tags, spans) is a class with these three attributes and one method; with a second one, how far its
outputs are from a teacher's, it can be distilled (:mod:`~q8bert.training.objectives.distillation`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from q8bert.tasks.head import Head

__all__ = ["Classification", "Objective", "Regression", "TargetSpec", "Teachable", "objective_of"]


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


class Teachable(Objective, Protocol):
    """An objective whose outputs can also be learned from another model's."""

    def soft_loss(self, outputs: Mapping[str, Tensor], teacher: Mapping[str, Tensor], *, temperature: float) -> Tensor:
        """Return how far a batch's outputs are from a teacher's, in the mean over its rows.

        Args:
            outputs: As in :meth:`Objective.loss`.
            teacher: The teacher's, of the same names and shapes; no gradient flows into them.
            temperature: What logits are divided by, where the outputs are logits of a choice.

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

    def soft_loss(self, outputs: Mapping[str, Tensor], teacher: Mapping[str, Tensor], *, temperature: float) -> Tensor:
        """Return ``T² · KL(p ‖ q)`` in the mean over rows, ``p`` and ``q`` the softened teacher and student.

        With logits ``t`` and ``z``, ``p = softmax(t / T)`` and ``q = softmax(z / T)``, ``KL = Σ p (log p − log q)``.
        Its gradient of ``z`` is ``T (q − p)``, of the same size at every temperature; without ``T²`` it would shrink by
        ``1 / T²`` beside that of the labels.

        References:
            Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2,
            https://arxiv.org/abs/1503.02531. There it is the cross-entropy, which differs by the teacher's own entropy
            and so has the same gradient.
        """
        log_p = nn.functional.log_softmax(teacher["logits"] / temperature, dim=-1)
        log_q = nn.functional.log_softmax(outputs["logits"] / temperature, dim=-1)
        return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


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

    def soft_loss(self, outputs: Mapping[str, Tensor], teacher: Mapping[str, Tensor], *, temperature: float) -> Tensor:
        """Return the mean squared error to the teacher's scores, in standardized units; a score has no temperature."""
        del temperature
        return nn.functional.mse_loss(outputs["logits"], teacher["logits"])


def objective_of(head: Head) -> Teachable:
    """Return what a head is trained for."""
    return Regression() if head.is_regression else Classification()
