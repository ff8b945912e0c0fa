"""Products of quantized values → products of integers, in standard operators, for runtimes that do not fuse them.

ONNX Runtime's CUDA provider dequantizes both factors of a product and multiplies floats, but has a kernel for
``MatMulInteger``. With codes ``q``, the code of zero ``z``, a step ``s`` and a step a column ``t``,

    DequantizeLinear(q, s, z) @ DequantizeLinear(w, t)  =  Cast(MatMulInteger(q, w, z)) · (s t),

the sums being exact in int32: a product adds up at most 4096 terms of 255 · 127, and the scales of saturation-free
weights make that less. Rows of tables are cast and multiplied by their scales, as the same provider's
``DequantizeLinear`` along an axis is not in all its releases.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from q8bert.export.graph.passes.constants import array_of, new_initializer

__all__ = ["IntegerProductsPass"]

_SHAPED = frozenset({"Squeeze", "Unsqueeze"})


class IntegerProductsPass(InPlacePass):
    """Multiply codes instead of what they stand for; see the module's docstring.

    Needs: ``MatMul`` of a dequantized activation, one scale for all, and of dequantized constants, one scale or one a
    column, without a zero point; tables as ``DequantizeLinear(Gather(codes, ids))`` with zero point 0.
    Gives: no ``DequantizeLinear``, where everything fits; what does not is left as it is.
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
            if node.op_type == "MatMul":
                n_changed += _multiply_codes(model.graph, node)
            elif node.op_type == "DequantizeLinear":
                n_changed += _scale_rows(model.graph, node)
        return PassResult(model, modified=bool(n_changed))


def _multiply_codes(graph: ir.Graph, matmul: ir.Node) -> bool:
    activation, between = _dequantizer(matmul.inputs[0])
    weight, none_between = _dequantizer(matmul.inputs[1])
    if activation is None or weight is None or none_between or len(weight.inputs) != 2:
        return False
    step, steps = array_of(activation.inputs[1]), array_of(weight.inputs[1])
    codes = array_of(weight.inputs[0])
    if codes is None or step is None or steps is None or step.ndim or len(activation.inputs) != 3:
        return False
    if array_of(activation.inputs[0]) is not None or weight.attributes.get_int("axis", 1) != 1:
        return False
    name = str(weight.inputs[0].name).removesuffix(".weight_codes")  # type: ignore[union-attr]
    scale = new_initializer(graph, f"{name}.product_scale", step.astype(np.float32) * steps.astype(np.float32))
    value, nodes = activation.inputs[0], []
    for shaping in reversed(between):
        shaped = ir.node(shaping.op_type, [value, *shaping.inputs[1:]], shaping.attributes)
        nodes.append(shaped)
        value = shaped.outputs[0]
    product = ir.node("MatMulInteger", [value, weight.inputs[0], activation.inputs[2]])
    cast = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    scaled = ir.node("Mul", [cast.outputs[0], scale])
    graph.insert_before(matmul, [*nodes, product, cast, scaled])
    matmul.outputs[0].replace_all_uses_with(scaled.outputs[0], replace_graph_outputs=True)
    graph.remove(matmul, safe=True)
    return True


def _dequantizer(value: ir.Value | None) -> tuple[ir.Node | None, list[ir.Node]]:
    """Return what dequantizes a factor, and the nodes that only shape it on the way, the last one first."""
    between: list[ir.Node] = []
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "DequantizeLinear":
            return node, between
        if node.op_type not in _SHAPED:
            break
        between.append(node)
        value = node.inputs[0]
    return None, between


def _scale_rows(graph: ir.Graph, dequantize: ir.Node) -> bool:
    rows = dequantize.inputs[0]
    gather = None if rows is None else rows.producer()
    if gather is None or gather.op_type != "Gather" or array_of(gather.inputs[0]) is None:
        return False
    zero_point = array_of(dequantize.inputs[2]) if len(dequantize.inputs) == 3 else np.zeros(1)
    scale = array_of(dequantize.inputs[1])
    rank = 0 if rows is None or rows.shape is None else len(rows.shape)
    is_last = scale is not None and (not scale.ndim or dequantize.attributes.get_int("axis", 1) in {rank - 1, -1})
    if zero_point is None or zero_point.any() or not is_last:
        return False
    cast = ir.node("Cast", [rows], {"to": ir.DataType.FLOAT})
    scaled = ir.node("Mul", [cast.outputs[0], dequantize.inputs[1]])
    graph.insert_before(dequantize, [cast, scaled])
    dequantize.outputs[0].replace_all_uses_with(scaled.outputs[0], replace_graph_outputs=True)
    graph.remove(dequantize, safe=True)
    return True
