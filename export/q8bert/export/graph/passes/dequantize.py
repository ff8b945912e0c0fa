"""A quantized graph → the same weights in float, activations not rounded.

For half precision on runtimes where integers gain nothing: weights and tables are what their codes stand for, and the
pairs of activations go. Products by powers of two before them stay, as the weights are those of smoothed activations.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from q8bert.export.graph.passes.constants import array_of, new_initializer

__all__ = ["DequantizePass"]


class DequantizePass(InPlacePass):
    """Replace quantized values by floats; see the module's docstring.

    Needs: ``DequantizeLinear`` of constants, of rows gathered from constants, or of ``QuantizeLinear``.
    Gives: no ``QuantizeLinear`` or ``DequantizeLinear``, where everything fits; what does not is left as it is.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the pass.

        Args:
            model: Changed in place.

        Returns:
            The model and whether anything was changed.
        """
        n_changed = 0
        for node in list(model.graph):
            if node.op_type == "DequantizeLinear":
                n_changed += _replace(model.graph, node)
        return PassResult(model, modified=bool(n_changed))


def _replace(graph: ir.Graph, dequantize: ir.Node) -> bool:
    codes = dequantize.inputs[0]
    before = None if codes is None else codes.producer()
    if before is None:
        constant = _dequantized(graph, dequantize, codes, axis=dequantize.attributes.get_int("axis", 1))
        return constant is not None and _take_out(graph, dequantize, constant)
    if before.op_type == "QuantizeLinear" and before.inputs[0] is not None:
        return _take_out(graph, dequantize, before.inputs[0])
    if before.op_type == "Gather":
        # a scale a column: the last axis of table and rows alike
        table = _dequantized(graph, dequantize, before.inputs[0], axis=-1)
        if table is None:
            return False
        rows = ir.node("Gather", [table, before.inputs[1]], before.attributes)
        rows.outputs[0].shape, rows.outputs[0].type = before.outputs[0].shape, ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(dequantize, rows)
        return _take_out(graph, dequantize, rows.outputs[0])
    return False


def _dequantized(graph: ir.Graph, node: ir.Node, codes: ir.Value | None, *, axis: int) -> ir.Value | None:
    array, scale = array_of(codes), array_of(node.inputs[1])
    zero_point = array_of(node.inputs[2]) if len(node.inputs) == 3 else np.zeros(1)
    if codes is None or array is None or scale is None or zero_point is None or zero_point.any():
        return None
    shape = [1] * array.ndim
    if scale.ndim:
        shape[axis] = -1
    name = str(codes.name).removesuffix("_codes")
    return new_initializer(
        graph, name, array.astype(np.float32) * scale.astype(np.float32).reshape(shape if scale.ndim else ())
    )


def _take_out(graph: ir.Graph, node: ir.Node, value: ir.Value) -> bool:
    node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True
