"""The smoothing of what attention puts together → the scales of the values that it is put together of.

What the output projection of attention reads is a weighted sum of values, a channel at a time:

    (P V) · f  =  P (V · f),    V · f  =  x (W · f) + b · f

with one factor a channel. The factors are powers of two, so both sides round alike, and the product of rows and columns
``W · f`` needs no new codes: a scale a column is multiplied by its factor. So the ``Mul`` before the site goes, and its
activation has the same codes as with it.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult

from q8bert.export.graph.passes.constants import array_of, new_initializer

__all__ = ["FoldSmoothingPass"]

_HEADS_LAST = (0, 2, 1, 3)  # (batch, heads, seq, width) ↔ (batch, seq, heads, width)


@dataclass(frozen=True)
class _Values:
    """Where the values of an attention come from, and the factors of what is put together of them."""

    multiply: ir.Node
    factors: NDArray[np.float32]
    dequantize: ir.Node
    add: ir.Node
    bias_at: int


class FoldSmoothingPass(InPlacePass):
    """Take factors of attention's output into the projection of its values; see the module's docstring.

    Needs: ``Mul`` by constants of powers of two, of ``Reshape(Transpose(MatMul(weights, values)))``, where the values
    are ``Transpose(Reshape(x @ DequantizeLinear(codes, scale) + bias))``, everything on the way has one reader, and
    targets of ``Reshape`` are constants. What does not fit is left as it is.
    Gives: no such ``Mul``; a scale an output column.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the pass.

        Args:
            model: Changed in place.

        Returns:
            The model and whether anything was folded.
        """
        folded = [found for node in list(model.graph) if (found := _match(node)) is not None]
        for found in folded:
            _fold(model.graph, found)
        return PassResult(model, modified=bool(folded))


def _match(multiply: ir.Node) -> _Values | None:
    factors = array_of(multiply.inputs[1]) if multiply.op_type == "Mul" else None
    if factors is None or factors.ndim != 1:
        return None
    product = _before(multiply.inputs[0], "Reshape", "Transpose", "MatMul")
    add = None if product is None else _before(product.inputs[1], "Transpose", "Reshape", "Add")
    if product is None or add is None or not _keeps_channels(multiply.inputs[0], product.inputs[1], len(factors)):
        return None
    bias_at = next((at for at, value in enumerate(add.inputs) if array_of(value) is not None), 0)
    matmul = _before(add.inputs[1 - bias_at], "MatMul")
    dequantize = None if matmul is None else _before(matmul.inputs[1], "DequantizeLinear")
    if dequantize is None or not _can_be_folded(dequantize, add.inputs[bias_at], factors):
        return None
    return _Values(multiply, factors.astype(np.float32), dequantize, add, bias_at)


def _can_be_folded(dequantize: ir.Node, bias: ir.Value | None, factors: NDArray[np.generic]) -> bool:
    if len(dequantize.inputs) != 2 or dequantize.attributes.get_int("axis", 1) != 1:
        return False
    arrays = [array_of(value) for value in (*dequantize.inputs, bias)]
    codes, scale, terms = arrays
    if codes is None or scale is None or terms is None or codes.ndim != 2 or codes.shape[1] != len(factors):
        return False
    return _is_exact(scale, factors) and _is_exact(terms, factors)


def _before(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the last of the nodes of these kinds, each computed from the next, if nothing else reads on the way."""
    node = None
    for op_type in op_types:
        node = None if value is None else value.producer()
        if node is None or node.op_type != op_type or len(node.outputs[0].uses()) != 1:
            return None
        value = node.inputs[0]
    return node


def _keeps_channels(put_together: ir.Value | None, values: ir.Value | None, width: int) -> bool:
    """Whether channels are split into heads and put together again in the same order."""
    for value in (put_together, values):
        # Reshape of a Transpose, and Transpose of a Reshape
        nodes = [] if value is None else [value.producer(), _producer_of_input(value)]
        transpose = next((node for node in nodes if node is not None and node.op_type == "Transpose"), None)
        perm = None if transpose is None else transpose.attributes.get("perm")
        if perm is None or tuple(perm.as_ints()) != _HEADS_LAST:
            return False
    joined = array_of(put_together.producer().inputs[1])  # type: ignore[union-attr]
    split = array_of(_producer_of_input(values).inputs[1])  # type: ignore[union-attr, arg-type]
    if joined is None or split is None or joined.tolist()[:-1] != [0, 0] or split.tolist()[:2] != [0, 0]:
        return False
    return len(split) == 4 and joined[-1] in {width, -1} and split.tolist()[2:] > [0, 0]


def _producer_of_input(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    before = None if node is None else node.inputs[0]
    return None if before is None else before.producer()


def _is_exact(values: NDArray[np.generic], factors: NDArray[np.generic]) -> bool:
    # powers of two change the exponent alone, unless the result is too small for one
    given, by = values.astype(np.float32), factors.astype(np.float32)
    mantissas, _ = np.frexp(by)
    return bool((mantissas == 0.5).all() and ((given * by) / by == given).all())


def _fold(graph: ir.Graph, found: _Values) -> None:
    scale, bias = found.dequantize.inputs[1], found.add.inputs[found.bias_at]
    for node, at, value in ((found.dequantize, 1, scale), (found.add, found.bias_at, bias)):
        name, array = str(value.name), array_of(value)  # type: ignore[union-attr]
        if value is not None and len(value.uses()) == 1:
            del graph.initializers[name]
        else:
            name += ".folded"
        node.replace_input_with(at, new_initializer(graph, name, array * found.factors))  # type: ignore[operator]
    found.dequantize.attributes["axis"] = ir.AttrInt64("axis", 1)
    factors = found.multiply.inputs[1]
    found.multiply.outputs[0].replace_all_uses_with(found.multiply.inputs[0])  # type: ignore[arg-type]
    graph.remove(found.multiply, safe=True)
    if factors is not None and factors.name is not None and not factors.uses():
        del graph.initializers[factors.name]
