"""A teacher, and what it says of the training rows: run over them once, in evaluation mode, in float32 torch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from q8bert.spec.errors import ModelError
from q8bert.training.loop.batches import TokenizedSplit
from q8bert.training.loop.processes import Processes
from q8bert.training.objectives.target_scale import TargetScale
from q8bert.training.quantization.quantized_model import QuantizedModel

__all__ = ["Teacher", "ask"]


@dataclass(frozen=True)
class Teacher:
    """A model whose outputs are learned.

    Attributes:
        name: What it is called in messages.
        model: Gives ``logits``, ``(batch, n_outputs)``.
        amax: Ranges of its activations, float32 ``(n_sites,)``; None for a float model.
        rows: The training rows, tokenized for it.
        target_scale: Units of its scores.
    """

    name: str
    model: QuantizedModel
    amax: Tensor | None
    rows: TokenizedSplit
    target_scale: TargetScale


def ask(teacher: Teacher, *, n_outputs: int, batch_size: int, processes: Processes) -> Tensor:
    """Run a teacher over the training rows.

    Args:
        teacher: The teacher.
        n_outputs: Width of its outputs.
        batch_size: Rows a forward pass.
        processes: Those that share the batches.

    Returns:
        Float64 ``(n_rows, n_outputs)`` on the CPU, the same on every process: logits, or scores in the data's units.

    Raises:
        ModelError: If an output is not finite.
    """
    outputs = torch.zeros(len(teacher.rows), n_outputs)
    device = next(teacher.model.parameters()).device
    amax = None if teacher.amax is None else teacher.amax.to(device)
    teacher.model.eval()
    with torch.no_grad():
        for rows, batch in teacher.rows.evaluation_batches(
            batch_size, rank=processes.rank, n_processes=processes.count
        ):
            inputs = {name: x.to(device) for name, x in batch.inputs.items()}
            outputs[rows] = teacher.model(inputs, amax)[0]["logits"].float().cpu()
    processes.sum_(outputs)  # every row is zero on all processes but one
    if wrong := torch.nonzero(~torch.isfinite(outputs).all(dim=1)).flatten().tolist():
        raise ModelError(
            f"{teacher.name} gives outputs that are not finite for {len(wrong)} training rows, the first of which is "
            f"row {wrong[0] + 1}. Give another teacher"
        )
    return teacher.target_scale.restore(outputs.double())
