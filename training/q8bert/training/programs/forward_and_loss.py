"""Forward pass and loss as one module, for torch's exporters, and what it is traced with."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from q8bert.training.objectives.objective import Objective
from q8bert.training.quantization.quantized_model import QuantizedModel

__all__ = ["ForwardAndLoss", "argument_names", "example_inputs"]

_BATCH, _SEQ = 2, 4  # sizes of the examples; 0 and 1 would be taken for constants


class ForwardAndLoss(nn.Module):
    """Forward pass and loss as one module.

    Args:
        quantized: The model.
        objective: Which outputs are read, and the loss.
        operators: Active while the model runs.
        observe: Whether activations are observed.
    """

    def __init__(
        self, quantized: QuantizedModel, objective: Objective, operators: AbstractContextManager[Any], *, observe: bool
    ) -> None:
        super().__init__()
        self.quantized = quantized
        self._objective = objective
        self._operators = operators
        self._observe = observe

    def forward(
        self,
        *,
        inputs: dict[str, Tensor],
        targets: dict[str, Tensor],
        loss_scale: Tensor,
        amax: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return scaled loss, loss, the objective's outputs and, if asked for, observations.

        Args:
            inputs: Int64 ``(batch, seq)`` by name.
            targets: As the objective has them.
            loss_scale: Float32 scalar.
            amax: Float32 ``(n_sites,)``, or None for a float model.

        Returns:
            Float32 tensors.
        """
        with self._operators:
            outputs, observations = self.quantized(inputs, amax, observe=self._observe)
        outputs = {name: value.float() for name, value in outputs.items()}
        loss = self._objective.loss(outputs, targets)
        results = (loss * loss_scale, loss.detach(), *(value.detach() for value in outputs.values()))
        return (*results, observations.float()) if self._observe else results


def example_inputs(
    objective: Objective, input_names: Sequence[str], *, n_sites: int, learns_ranges: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return keyword arguments of :class:`ForwardAndLoss` to trace it with, and their dynamic axes.

    Args:
        objective: What the targets look like.
        input_names: Inputs that the model takes.
        n_sites: Quantized activations; 0 for a float model.
        learns_ranges: Whether their ranges require a gradient.

    Returns:
        Arguments, and in the same nesting a mapping of axis to symbolic name for each tensor.
    """
    # a tensor of its own for each input: torch.export takes one tensor given twice for one input
    sizes = {"batch": _BATCH, "seq": _SEQ}
    arguments: dict[str, Any] = {
        "inputs": {name: torch.ones(_BATCH, _SEQ, dtype=torch.int64) for name in input_names},
        "targets": {
            name: torch.zeros([sizes.get(axis, axis) for axis in spec.axes], dtype=spec.dtype)  # type: ignore[arg-type]
            for name, spec in objective.targets.items()
        },
        "loss_scale": torch.ones(()),
    }
    axes: dict[str, Any] = {
        "inputs": {name: {0: "batch", 1: "seq"} for name in input_names},
        "targets": {
            name: {index: axis for index, axis in enumerate(spec.axes) if isinstance(axis, str)}
            for name, spec in objective.targets.items()
        },
        "loss_scale": {},
    }
    if n_sites:
        arguments["amax"], axes["amax"] = torch.ones(n_sites, requires_grad=learns_ranges), {}
    return arguments, axes


def argument_names(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of tensors in a mapping of tensors or mappings, in order: their innermost keys."""
    names: list[str] = []
    for name, value in arguments.items():
        names += argument_names(value) if isinstance(value, Mapping) else [name]
    return tuple(names)
