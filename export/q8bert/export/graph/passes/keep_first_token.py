"""Leave out what no head reads: in the last layer, all rows but that of the first token.

A classifier's head reads the first token alone. So query, attention output and both feed-forward products of the last
layer are needed for that one row; keys and values are needed for all. This is found by no name of any model, from the
end of the graph to its start: a value of which every reader takes index 0 of an axis is computed for that index alone,
and so are the values that it is computed from row by row. What is needed whole elsewhere is cut before it is read. An
activation that is quantized is cut before that, and has a second pair there, for ONNX Runtime multiplies integers only
where a pair feeds one product.

:mod:`q8bert.training.programs.first_token` does the same to the training graph, in the operators of torch.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from q8bert.export.graph.passes.constants import array_of, new_initializer

__all__ = ["FIRST_TOKEN", "KeepFirstTokenPass"]

# part of the names of the constants of second pairs
FIRST_TOKEN = ".first_token"  # noqa: S105 - no password

_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Cast", "Erf", "Gelu", "Relu", "Sqrt", "Tanh"})
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})

_Axes = dict[int, int]  # which input → of which of its axes index 0 alone is needed


class KeepFirstTokenPass(InPlacePass):
    """Compute index 0 of an axis alone where nothing else is read; see the module's docstring.

    Needs: shapes, with names for sizes that are not known, and constant targets of ``Reshape``.
    Gives: the same outputs.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the pass.

        Args:
            model: Changed in place.

        Returns:
            The model and whether anything was narrowed.
        """
        graph = model.graph
        narrowed: dict[ir.Node, int] = {}
        for node in reversed(graph):
            axis = _axis_read(node, narrowed, graph)
            if axis is not None and _input_axes(node, axis):
                narrowed[node] = axis
        cuts: dict[tuple[ir.Value, int], ir.Value] = {}
        for node in list(graph):
            if node in narrowed:
                _cut_inputs(graph, node, narrowed, cuts)
        for node, axis in narrowed.items():  # the rules above are asked for shapes as they were
            sizes = list(node.outputs[0].shape or ())
            sizes[axis] = 1
            node.outputs[0].shape = ir.Shape(sizes)
        return PassResult(model, modified=bool(narrowed))


def _axis_read(node: ir.Node, narrowed: Mapping[ir.Node, int], graph: ir.Graph) -> int | None:
    """Return the axis of a node's output of which every reader takes index 0 alone."""
    if len(node.outputs) != 1 or (output := node.outputs[0]) in graph.outputs or output.shape is None:
        return None
    axes = {_axis_taken(reader, at, narrowed) for reader, at in output.uses()}
    axis = axes.pop() if len(axes) == 1 else None
    # an axis of a fixed size is none of tokens
    return None if axis is None or isinstance(output.shape[axis], int) else axis


def _axis_taken(reader: ir.Node, at: int, narrowed: Mapping[ir.Node, int]) -> int | None:
    if reader in narrowed:
        return _input_axes(reader, narrowed[reader]).get(at)
    index = array_of(reader.inputs[1]) if reader.op_type == "Gather" and at == 0 else None
    if index is None or index.size != 1 or index.item() != 0:
        return None
    axis = reader.attributes.get_int("axis", 0)
    return axis % _rank(reader.inputs[0])


def _input_axes(node: ir.Node, axis: int) -> _Axes:
    """Return of which inputs a node needs index 0 alone, to compute index 0 of an axis of its own; empty: not known."""
    if node.op_type in _ELEMENTWISE:
        return _aligned(node, axis)
    rule = _RULES.get(node.op_type)
    return {} if rule is None else rule(node, axis)


def _aligned(node: ir.Node, axis: int) -> _Axes:
    # shapes are aligned at their ends; an axis of size 1 serves all indices as it is
    rank = _rank(node.outputs[0])
    axes = {}
    for at, value in enumerate(node.inputs):
        if value is None or value.shape is None:
            return {}
        own = axis - rank + len(value.shape)
        if own >= 0 and value.shape[own] != 1:
            axes[at] = own
    return axes


def _row_by_row(node: ir.Node, axis: int) -> _Axes:
    """Return the axis itself, unless the node works along it or along one after it that holds it."""
    along = node.attributes.get_int("axis", -1) % _rank(node.outputs[0])
    is_own = axis < along if node.op_type == "LayerNormalization" else axis != along
    return {0: axis} if is_own else {}


def _quantizer(node: ir.Node, axis: int) -> _Axes:
    scale = node.inputs[1]
    if scale is None or scale.shape is None:
        return {}
    return {0: axis} if len(scale.shape) == 0 else _row_by_row(node, axis)


def _transpose(node: ir.Node, axis: int) -> _Axes:
    perm = node.attributes.get("perm")
    return {} if perm is None else {0: perm.as_ints()[axis]}


def _reshape(node: ir.Node, axis: int) -> _Axes:
    target = array_of(node.inputs[1])
    return {0: axis} if target is not None and target[axis] == 0 else {}


def _matmul(node: ir.Node, axis: int) -> _Axes:
    is_of_rows = axis == _rank(node.outputs[0]) - 2 and node.inputs[0] is not node.inputs[1]
    return {0: _rank(node.inputs[0]) - 2} if is_of_rows else {}


_RULES: Mapping[str, Callable[[ir.Node, int], _Axes]] = {
    "DequantizeLinear": _quantizer,
    "LayerNormalization": _row_by_row,
    "MatMul": _matmul,
    "QuantizeLinear": _quantizer,
    "Reshape": _reshape,
    "Softmax": _row_by_row,
    "Transpose": _transpose,
}


def _cut_inputs(
    graph: ir.Graph, node: ir.Node, narrowed: Mapping[ir.Node, int], cuts: dict[tuple[ir.Value, int], ir.Value]
) -> None:
    for at, axis in _input_axes(node, narrowed[node]).items():
        value = node.inputs[at]
        if value is None or value.producer() in narrowed:
            continue
        if (value, axis) not in cuts:
            cuts[value, axis] = _cut(graph, node, value, axis)
        node.replace_input_with(at, cuts[value, axis])


def _cut(graph: ir.Graph, reader: ir.Node, value: ir.Value, axis: int) -> ir.Value:
    """Return index 0 of an axis, which stays, as it is computed right before a reader."""
    pair: list[ir.Node] = []
    while (node := value.producer()) is not None and node.op_type in _QUANTIZERS and node.inputs[0] is not None:
        if array_of(node.inputs[0]) is not None:
            break
        pair.append(node)
        value = node.inputs[0]
    # not Slice, of which ONNX's own inference does not know that one row comes out
    cut = ir.node("Gather", [value, _first_index(graph)], {"axis": axis})
    graph.insert_before(reader, cut)
    found = cut.outputs[0]
    for node in reversed(pair):
        constants = [_copied(graph, constant) for constant in node.inputs[1:] if constant is not None]
        copied = ir.node(node.op_type, [found, *constants], node.attributes)
        graph.insert_before(reader, copied)
        found = copied.outputs[0]
    return found


def _first_index(graph: ir.Graph) -> ir.Value:
    name = "first_token_index"
    return graph.initializers.get(name) or new_initializer(graph, name, np.zeros(1, dtype=np.int64))


def _copied(graph: ir.Graph, constant: ir.Value) -> ir.Value:
    # each pair has constants of its own
    site, _, what = str(constant.name).rpartition(".")
    array = array_of(constant)
    return constant if array is None else new_initializer(graph, f"{site}{FIRST_TOKEN}.{what}", array)


def _rank(value: ir.Value | None) -> int:
    return 0 if value is None or value.shape is None else len(value.shape)
