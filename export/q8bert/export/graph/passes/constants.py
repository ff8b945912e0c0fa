"""Constants of a graph: read and made."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["array_of", "new_initializer"]


def array_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the content of a constant; None for all else."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def new_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Add a constant to a graph.

    Args:
        graph: The graph.
        name: Of the constant; no other value of the graph may have it.
        array: Its content.

    Returns:
        The constant.
    """
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value
