"""Learning from labels and from a teacher at once."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from q8bert.training.objectives.objective import TargetSpec, Teachable

__all__ = ["Distilled", "teacher_target"]


def teacher_target(output: str) -> str:
    """Return the name of the target that holds what a teacher gave for an output."""
    return f"teacher_{output}"


@dataclass(frozen=True)
class Distilled:
    """An objective's labels and a teacher's outputs: ``(1 − w) · loss + w · soft_loss``.

    Attributes:
        labels: What is learned of the labels, and how far outputs are from a teacher's.
        n_outputs: Width of the outputs.
        temperature: What logits of a choice are divided by; above 1 it shows more of what the teacher holds possible.
        weight: ``w``, the teacher's share in the loss, 0 to 1.
    """

    labels: Teachable
    n_outputs: int
    temperature: float
    weight: float

    @property
    def outputs(self) -> tuple[str, ...]:
        """Those of the labels' objective."""
        return self.labels.outputs

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        """Labels, and the teacher's outputs: float32 ``(batch, n_outputs)``."""
        soft = TargetSpec(torch.float32, ("batch", self.n_outputs))
        return {**self.labels.targets, **{teacher_target(name): soft for name in self.outputs}}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of both losses."""
        teacher = {name: targets[teacher_target(name)] for name in self.outputs}
        hard = self.labels.loss(outputs, targets)
        soft = self.labels.soft_loss(outputs, teacher, temperature=self.temperature)
        return (1 - self.weight) * hard + self.weight * soft
