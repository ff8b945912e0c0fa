"""Names in a graph that torch exported from :class:`~q8bert.training.programs.forward_and_loss.ForwardAndLoss`.

torch names inputs after their place, parameters as they are called in the module, and symbolic sizes by numbers. These
functions bring back the names that the rest of q8bert knows.
"""

from collections.abc import Sequence, Set

import onnx_ir as ir

from q8bert.spec.errors import ExportError

__all__ = ["name_axes", "name_inputs", "name_outputs", "own_name"]


def name_inputs(graph: ir.Model, names: Sequence[str], *, more: Set[str]) -> None:
    """Give inputs their own names, and make initializers inputs, in place.

    Args:
        graph: As torch exported it.
        names: One an input, in order, as the module has them.
        more: Own names of the initializers that become inputs.
    """
    for value, name in zip(graph.graph.inputs, names, strict=True):
        value.name = own_name(name)
    for name in list(graph.graph.initializers):
        if own_name(name) in more:
            value = graph.graph.initializers.pop(name)
            value.const_value = None
            value.name = own_name(name)
            graph.graph.inputs.append(value)


def name_outputs(graph: ir.Model, names: Sequence[str], *, drop: Sequence[str] = ()) -> None:
    """Give outputs their names, in place; a value that is put out twice, or is an input, goes through an Identity.

    Args:
        graph: As torch exported it.
        names: One an output, in order.
        drop: Names of those that are no outputs any more.
    """
    seen: set[ir.Value] = set()
    outputs = []
    for value, name in zip(list(graph.graph.outputs), names, strict=True):
        if value in seen or value.is_graph_input() or value.is_initializer():
            copied = ir.node("Identity", [value])
            copied.outputs[0].shape, copied.outputs[0].type = value.shape, value.type
            graph.graph.append(copied)
            value = copied.outputs[0]  # noqa: PLW2901 - the value that is put out instead
        seen.add(value)
        if name not in drop:
            value.name = own_name(name)
            outputs.append(value)
    graph.graph.outputs[:] = outputs


def name_axes(graph: ir.Model) -> None:
    """Call the symbolic sizes ``batch`` and ``seq``, as ``input_ids`` has them, wherever they stand, in place.

    Args:
        graph: With its inputs named.

    Raises:
        ExportError: If torch gave ``input_ids`` no shape.
    """
    ids = next(value for value in graph.graph.inputs if value.name == "input_ids")
    if ids.shape is None:
        raise ExportError("torch gave no shape for input_ids")
    names = dict(zip(map(str, ids.shape), ("batch", "seq"), strict=True))
    values = [*graph.graph.inputs, *(value for node in graph.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None and any(str(size) in names for size in value.shape):
            value.shape = ir.Shape([names.get(str(size), size) for size in value.shape])


def own_name(name: str) -> str:
    """Return the Hugging Face name of a parameter of :class:`ForwardAndLoss`, or a buffer's own name."""
    return name.removeprefix("quantized.").removeprefix("model.")
