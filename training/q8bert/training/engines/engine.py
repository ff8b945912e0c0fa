"""What computes gradients: one small interface, two engines behind it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Batch", "Engine", "StepResult"]


@dataclass(frozen=True)
class Batch:
    """Tensors of one batch.

    Attributes:
        inputs: ``input_ids``, ``attention_mask`` and, for models that take them, ``token_type_ids``;
            int64 ``(batch, seq)``.
        labels: Int64 label ids or float32 scores, ``(batch,)``.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor


@dataclass(frozen=True)
class StepResult:
    """What one forward and backward pass gives besides gradients.

    Attributes:
        loss: Mean loss of the batch.
        logits: Float32 ``(batch, n_outputs)``.
        observations: Float32 ``(n_sites,)``, ``max |x|`` of each site over real tokens; empty for a float model.
    """

    loss: float
    logits: Tensor
    observations: Tensor


class Engine(Protocol):
    """Runs the model on the effective weights it was built with.

    Attributes:
        n_sites: Activations observed; 0 for a float model.
    """

    n_sites: int

    def step(self, batch: Batch, amax: Tensor | None, *, seed: int, loss_scale: float = 1.0) -> StepResult:
        """Run forward and backward in training mode, overwriting the weights' gradients.

        Args:
            batch: The rows.
            amax: Float32 ``(n_sites,)``, activation ranges; None leaves activations float, and observes them.
            seed: Non-negative, below 2**31; decides every random draw of this step (dropout).
            loss_scale: Gradients are those of the loss times this.

        Returns:
            Loss, logits and observations.
        """
        ...

    def logits(self, inputs: Mapping[str, Tensor], amax: Tensor | None) -> Tensor:
        """Run forward in evaluation mode: no dropout, ranges frozen, nothing observed.

        Args:
            inputs: As in :class:`Batch`.
            amax: Float32 ``(n_sites,)``; None leaves activations float.

        Returns:
            Float32 ``(batch, n_outputs)``.
        """
        ...
