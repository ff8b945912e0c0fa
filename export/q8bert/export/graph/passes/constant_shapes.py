"""Sizes that are computed in every run → constants, and slices of everything → nothing.

An exporter writes ``x.view(batch, seq, heads, width)`` as a ``Reshape`` to a shape that is put together from the sizes
of an input, some five nodes that run each time. ONNX has two signs that say the same as constants: 0 for the size that
the input has on that axis, and −1 for whatever is left.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from q8bert.export.graph.passes.constants import array_of, new_initializer

__all__ = ["ConstantShapesPass"]

_FROM_START, _TO_END = 0, 2**31 - 1


class ConstantShapesPass(InPlacePass):
    """Give every ``Reshape`` a constant target where one says the same, and take slices of everything out.

    Needs: shapes of inputs and outputs, with names for sizes that are not known. What does not fit is left as it is.
    Gives: targets that are constant, read by one ``Reshape`` each or by several with the same.
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
            if node.op_type == "Reshape" and (target := _target(node)) is not None:
                node.replace_input_with(1, _constant(model.graph, target))
                node.attributes.pop("allowzero", None)
                n_changed += 1
            elif node.op_type == "Slice" and _takes_all(node) and node.inputs[0] is not None:
                node.outputs[0].replace_all_uses_with(node.inputs[0])
                model.graph.remove(node, safe=True)
                n_changed += 1
        return PassResult(model, modified=bool(n_changed))


def _target(node: ir.Node) -> list[int] | None:
    """Return a constant that means the node's own target; None where there is none, or it is a constant already."""
    before, target = node.inputs[0], node.inputs[1]
    after = node.outputs[0].shape
    if before is None or target is None or target.const_value is not None or before.shape is None or after is None:
        return None
    sizes = [
        size if isinstance(size, int) else _copied_or_left(before.shape, axis, size) for axis, size in enumerate(after)
    ]
    return sizes if sizes.count(-1) <= 1 and 0 not in after else None


def _copied_or_left(before: ir.Shape, axis: int, size: ir.SymbolicDim) -> int:
    is_same = axis < len(before) and size.value is not None and before[axis] == size
    return 0 if is_same else -1


def _takes_all(node: ir.Node) -> bool:
    values = [array_of(value) for value in node.inputs[1:]]
    if len(values) not in {2, 3, 4} or any(value is None for value in values):
        return False
    starts, ends, *rest = values
    steps = rest[1] if len(rest) > 1 else np.ones(1)
    return bool((starts == _FROM_START).all() and (ends >= _TO_END).all() and (steps == 1).all())  # type: ignore[operator, union-attr]


def _constant(graph: ir.Graph, target: list[int]) -> ir.Value:
    name = "shape_" + "_".join(map(str, target))
    return graph.initializers.get(name) or new_initializer(graph, name, np.array(target, dtype=np.int64))
