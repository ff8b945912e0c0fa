"""Dropout as a product with a mask that is drawn outside the graph.

ONNX Runtime's own Dropout draws one number after the other (a tenth of a training step) from a generator that every
node seeds with the next integer, so that masks of neighbouring nodes are correlated. Here every dropout of a model
becomes ``x * mask`` in its training graph, the masks are inputs, and one generator draws them all:

- an element is dropped where a uniform 16-bit number is below ``round(p * 2**16)``;
- the others are scaled by the inverse of exactly that share, so the mean stays what it was.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from q8bert.spec.errors import ExportError

__all__ = ["DropoutInput", "DropoutMasks", "dropout_to_inputs", "read_dropout_inputs", "remove_dropout"]

_METADATA_KEY = "q8bert.dropout"
_PREFIX = "dropout_mask_"
_LEVELS = 2**16


@dataclass(frozen=True)
class DropoutInput:
    """A mask that a training graph takes.

    Attributes:
        name: Name of the graph's input.
        shape: Sizes; ``batch`` and ``seq`` stand for those of the batch.
        probability: Share of elements that are dropped.
    """

    name: str
    shape: tuple[int | str, ...]
    probability: float


def dropout_to_inputs(model: ir.Model, operator: str) -> None:
    """Turn every mask of a graph, which an operator stands for, into an input, in place.

    Args:
        model: Graph with symbolic dimensions ``batch`` and ``seq``; what the inputs are is written into its metadata.
        operator: Type of the nodes that stand for a mask; their attribute ``probability`` says how much is dropped.

    Raises:
        ExportError: If the shape of what is dropped out is not known.
    """
    found: list[DropoutInput] = []
    for node in list(model.graph):
        if node.op_type != operator:
            continue
        stand_in = node.outputs[0]
        if stand_in.shape is None:
            raise ExportError("the exporter gave no shape for the input of a dropout")
        shape = tuple(size if isinstance(size, int) else str(size.value) for size in stand_in.shape)
        found.append(DropoutInput(f"{_PREFIX}{len(found)}", shape, node.attributes["probability"].as_float()))
        mask = ir.Value(name=found[-1].name, shape=stand_in.shape, type=stand_in.type)
        model.graph.inputs.append(mask)
        stand_in.replace_all_uses_with(mask)
        model.graph.remove(node, safe=True)
    model.metadata_props[_METADATA_KEY] = json.dumps([[item.name, item.shape, item.probability] for item in found])


def remove_dropout(model: ir.Model) -> None:
    """Undo :func:`dropout_to_inputs` for evaluation: every product with a mask becomes its other factor, in place."""
    for node in list(model.graph):
        mask = node.inputs[1] if node.op_type == "Mul" else None
        if mask is not None and mask.name is not None and mask.name.startswith(_PREFIX) and node.inputs[0] is not None:
            node.outputs[0].replace_all_uses_with(node.inputs[0], replace_graph_outputs=True)
            model.graph.remove(node, safe=True)


def read_dropout_inputs(metadata: Mapping[str, str]) -> tuple[DropoutInput, ...]:
    """Return the masks that a graph takes, from its metadata."""
    return tuple(
        DropoutInput(name, tuple(shape), p) for name, shape, p in json.loads(metadata.get(_METADATA_KEY, "[]"))
    )


class DropoutMasks:
    """Draws the masks of a step into memory that is kept from step to step.

    Args:
        inputs: The masks to draw.
        device: Where they are needed.
        dtype: Type of what they are multiplied with.
    """

    def __init__(
        self, inputs: Sequence[DropoutInput], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._inputs = tuple(inputs)
        self._device = device
        self._memory = torch.empty(0, device=device, dtype=dtype)

    def draw(self, *, batch: int, seq: int, seed: int) -> dict[str, Tensor]:
        """Draw all masks of one step.

        Args:
            batch: Rows.
            seq: Tokens a row.
            seed: Decides everything drawn.

        Returns:
            Masks by input name, 0 or ``1 / (1 - p)``; overwritten by the next call.
        """
        sizes = {"batch": batch, "seq": seq}
        shapes = [tuple(sizes[n] if isinstance(n, str) else n for n in item.shape) for item in self._inputs]
        starts = np.concatenate([[0], np.cumsum([int(np.prod(shape)) for shape in shapes], dtype=np.int64)])
        if self._memory.numel() < starts[-1]:
            self._memory = torch.empty(int(starts[-1]), device=self._device, dtype=self._memory.dtype)
        numbers = _uniform_16_bit(int(starts[-1]), seed, self._device)
        masks = {}
        for item, shape, start, end in zip(self._inputs, shapes, starts, starts[1:], strict=False):
            dropped = round(item.probability * _LEVELS)
            mask = self._memory[start:end]
            torch.mul(numbers[start:end] >= dropped - _LEVELS // 2, _LEVELS / (_LEVELS - dropped), out=mask)
            masks[item.name] = mask.view(shape)
        return masks


def _uniform_16_bit(n: int, seed: int, device: torch.device) -> Tensor:
    """Return ``n`` uniform numbers from -2**15 to 2**15 - 1, int16."""
    if device.type == "cuda":
        generator = torch.Generator(device).manual_seed(seed)
        half = _LEVELS // 2
        return torch.randint(-half, half, (n,), dtype=torch.int16, device=device, generator=generator)
    # numpy's SFC64 gives 16 bits in a third of a nanosecond; torch's CPU generators take ten times as long
    words = np.random.SFC64(seed).random_raw(-(-n // 4))
    return torch.from_numpy(words.view(np.int16)[:n])
