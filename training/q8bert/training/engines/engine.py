"""What computes gradients: one small interface, two engines behind it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Batch", "Engine", "StepResult"]


@dataclass(frozen=True)
class Batch:
    """Tensors of one batch.

    Attributes:
        inputs: ``input_ids``, ``attention_mask`` and what else the model takes; int64 ``(batch, seq)``.
        targets: What the objective compares outputs with, by name; a row each along the first axis.
    """

    inputs: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.inputs["input_ids"])


@dataclass(frozen=True)
class StepResult:
    """What one forward and backward pass gives besides gradients, all on the device where it ran.

    Attributes:
        loss: Mean loss of the batch, float32 scalar.
        outputs: The objective's outputs, float32 ``(batch, …)``, by name.
        observations: Float32 ``(n_sites,)``, the range that each site's real tokens need; empty for a float
            model.
        range_gradient: Float32 ``(n_sites,)``, of the loss, times its scale, with respect to the ranges, by
            :mod:`~q8bert.training.quantization.learned_ranges`; empty where they are not learned.
    """

    loss: Tensor
    outputs: Mapping[str, Tensor]
    observations: Tensor
    range_gradient: Tensor = field(default_factory=lambda: torch.zeros(0))


class Engine(Protocol):
    """Runs the model on the effective weights it was built with.

    Attributes:
        n_sites: Activations quantized and observed; 0 for a float model.
    """

    n_sites: int

    def step(self, batch: Batch, amax: Tensor | None, *, seed: int, loss_scale: float = 1.0) -> StepResult:
        """Run forward and backward in training mode, overwriting the weights' gradients.

        Args:
            batch: The rows.
            amax: Float32 ``(n_sites,)``, activation ranges; None for a float model.
            seed: Non-negative, below 2**31; decides every random draw of this step (dropout).
            loss_scale: Gradients are those of the loss times this.

        Returns:
            Loss, outputs and observations, and the gradient of the ranges for an engine that was made to learn them.
        """
        ...

    def outputs(self, inputs: Mapping[str, Tensor], amax: Tensor | None) -> dict[str, Tensor]:
        """Run forward in evaluation mode: no dropout, ranges frozen, nothing observed.

        Args:
            inputs: As in :class:`Batch`.
            amax: Float32 ``(n_sites,)``; None for a float model.

        Returns:
            The objective's outputs, float32 ``(batch, …)``, by name.
        """
        ...
