"""Several quantized MatMuls of one activation → one, with a scale per output column.

Query, key and value read the same int8 tensor. ONNX Runtime fuses ``DequantizeLinear → MatMul`` to
integers only where the pair feeds one MatMul; of three, two are left in float. Side by side they are one MatMul:

1. ``x @ W_q``, ``x @ W_k``, ``x @ W_v``, each weight a ``DequantizeLinear`` of int8 codes
   → ``x @ [W_q W_k W_v]``, codes and scales concatenated along the output axis
   (a scale per tensor is repeated for each of its columns);
2. each followed by its bias ``Add`` → one ``Add`` of the concatenated biases;
3. then a ``Split`` gives every reader its own columns.

Every column is multiplied and scaled as before, so the results do not change.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from q8bert.export.graph.passes.constants import array_of, new_initializer
from q8bert.export.layer_names import one_name

__all__ = ["FuseSharedMatMulsPass"]


@dataclass(frozen=True)
class _Branch:
    """One MatMul with its weight's DequantizeLinear and its bias Add."""

    dequantize: ir.Node
    matmul: ir.Node
    add: ir.Node
    bias: ir.Value


class FuseSharedMatMulsPass(InPlacePass):
    """Merge MatMuls that read the same activation; see the module's docstring.

    Needs: weights as ``DequantizeLinear`` of constants without a zero point, ``(in, out)``, one scale or one a column
    (axis 1), read by one MatMul each, whose one reader adds a constant bias. What does not fit is left as it is.
    Gives: one MatMul, with a weight that is constant but for its ``DequantizeLinear``, for each such activation.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the pass.

        Args:
            model: Changed in place.

        Returns:
            The model and whether anything was merged.
        """
        branches: dict[ir.Value, list[_Branch]] = defaultdict(list)
        for node in model.graph:
            activation = node.inputs[0] if node.op_type == "MatMul" else None
            if activation is not None and (branch := _match(node)) is not None:
                branches[activation].append(branch)
        shared = {value: found for value, found in branches.items() if len(found) > 1}
        for activation, found in shared.items():
            _merge(model.graph, activation, found)
        return PassResult(model, modified=bool(shared))


def _match(matmul: ir.Node) -> _Branch | None:
    weight = matmul.inputs[1]
    dequantize = weight.producer() if weight is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    if len(dequantize.inputs) != 2 or any(value is None or value.const_value is None for value in dequantize.inputs):
        return None
    if len(dequantize.outputs[0].uses()) != 1:
        return None
    if _constant(dequantize.inputs[1]).ndim > 0 and dequantize.attributes.get_int("axis", 1) != 1:
        return None
    readers = matmul.outputs[0].consumers()
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    bias = next((value for value in readers[0].inputs if value is not None and value.const_value is not None), None)
    return None if bias is None else _Branch(dequantize, matmul, readers[0], bias)


def _merge(graph: ir.Graph, activation: ir.Value, branches: list[_Branch]) -> None:
    codes = [_constant(branch.dequantize.inputs[0]) for branch in branches]
    sizes = [array.shape[1] for array in codes]
    scales = [_per_column(branch.dequantize.inputs[1], size) for branch, size in zip(branches, sizes, strict=True)]
    biases = [_constant(branch.bias) for branch in branches]
    names = [str(branch.bias.name).removesuffix(".bias") for branch in branches]
    prefix = one_name(names)
    constants = {
        "weight_codes": np.concatenate(codes, axis=1),
        "weight_scale": np.concatenate(scales),
        "bias": np.concatenate(biases),
    }
    values = {name: new_initializer(graph, f"{prefix}.{name}", array) for name, array in constants.items()}
    dequantize = ir.node("DequantizeLinear", [values["weight_codes"], values["weight_scale"]], {"axis": 1})
    matmul = ir.node("MatMul", [activation, dequantize.outputs[0]])
    add = ir.node("Add", [matmul.outputs[0], values["bias"]])
    split_sizes = new_initializer(graph, f"{prefix}.split_sizes", np.array(sizes, dtype=np.int64))
    split = ir.node("Split", [add.outputs[0], split_sizes], {"axis": -1}, num_outputs=len(branches))
    graph.insert_before(branches[0].matmul, [dequantize, matmul, add, split])
    for branch, output in zip(branches, split.outputs, strict=True):
        branch.add.outputs[0].replace_all_uses_with(output, replace_graph_outputs=True)
        constants_before = {branch.bias, *branch.dequantize.inputs}
        graph.remove([branch.add, branch.matmul, branch.dequantize], safe=True)
        for value in constants_before:
            if value is not None and value.name is not None and not value.uses():
                del graph.initializers[value.name]


def _constant(value: ir.Value | None) -> NDArray[np.generic]:
    array = array_of(value)
    if array is None:
        raise ValueError("expected a constant")
    return array


def _per_column(value: ir.Value | None, size: int) -> NDArray[np.generic]:
    return np.broadcast_to(_constant(value), (size,))
