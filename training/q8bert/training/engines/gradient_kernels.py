"""Gradient kernels of ONNX Runtime that are slow on some CPUs, written out in elementary operators.

They replace ``LayerNormalizationGrad``, ``GeluGrad`` and ``SoftmaxGrad`` of release 1.19.2, and take less memory for
it; `tools/bench_training.py --variants` says what they gain in time. The formulas are the operators' own derivatives:

- LayerNormalization, ``y = x̂ γ + β`` with ``x̂ = (x − mean) · inv_std``, over the last axis:
  ``dx = inv_std · (g − mean(g) − x̂ · mean(g · x̂))`` with ``g = dy · γ``;
  ``dγ = Σ dy · x̂``, ``dβ = Σ dy`` over all other axes
- Gelu, ``y = x Φ(x)``: ``dx = dy · (Φ(x) + x φ(x))`` with ``Φ = (1 + erf(x / √2)) / 2``, ``φ = exp(−x² / 2) / √(2π)``
- Softmax over an axis: ``dx = y · (dy − Σ dy · y)``
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

__all__ = ["expand_gradient_kernels"]


def expand_gradient_kernels(model: ir.Model) -> None:
    """Replace the slow kernels of a training graph, in place.

    Args:
        model: What ONNX Runtime's gradient builder made.
    """
    half = any(value.dtype == ir.DataType.FLOAT16 for value in model.graph.inputs)
    for node in list(model.graph):
        if node.op_type not in _EXPANSIONS or (node.op_type == "SliceGrad" and not half):
            continue
        expand, n_floats = _EXPANSIONS[node.op_type]
        steps = tape.Tape()
        inputs = list(node.inputs)
        if half:  # computed in float32; an input that is float32 already loses nothing by the Cast
            inputs[:n_floats] = [_cast(steps, value, ir.DataType.FLOAT) for value in inputs[:n_floats]]
        results = expand(steps, inputs, node)
        if half:
            results = [_cast(steps, value, ir.DataType.FLOAT16) for value in results]
        model.graph.insert_before(node, steps.nodes)
        for old, new in zip(node.outputs, results, strict=False):
            new.name, old.name = old.name, f"{old.name}_before"
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)


def _layer_norm(steps: tape.Tape, inputs: Sequence[ir.Value | None], _: ir.Node) -> list[ir.Value]:
    dy, x, gamma, mean, inv_std = inputs[:5]
    normal = steps.op("Mul", [steps.op("Sub", [x, mean]), inv_std])
    g = steps.op("Mul", [dy, gamma])
    along = steps.op("ReduceMean", [steps.op("Mul", [g, normal]), _ints(steps, [-1])])
    centred = steps.op("Sub", [g, steps.op("ReduceMean", [g, _ints(steps, [-1])])])
    dx = steps.op("Mul", [steps.op("Sub", [centred, steps.op("Mul", [normal, along])]), inv_std])
    # as (rows, n), so that the sum runs over one axis whatever the rank
    flat = _ints(steps, [-1, _width(gamma)])
    rows = steps.op("Reshape", [dy, flat])
    products = steps.op("Reshape", [steps.op("Mul", [dy, normal]), flat])
    d_gamma = steps.op("ReduceSum", [products, _ints(steps, [0])], {"keepdims": 0})
    d_beta = steps.op("ReduceSum", [rows, _ints(steps, [0])], {"keepdims": 0})
    return [dx, d_gamma, d_beta]


def _gelu(steps: tape.Tape, inputs: Sequence[ir.Value | None], _: ir.Node) -> list[ir.Value]:
    dy, x = inputs[:2]
    scaled = steps.op("Mul", [x, _float(steps, math.sqrt(0.5))])
    phi_integral = steps.op(
        "Mul", [steps.op("Add", [steps.op("Erf", [scaled]), _float(steps, 1.0)]), _float(steps, 0.5)]
    )
    density = steps.op("Exp", [steps.op("Neg", [steps.op("Mul", [scaled, scaled])])])
    slope = steps.op("Mul", [steps.op("Mul", [density, _float(steps, 1 / math.sqrt(2 * math.pi))]), x])
    return [steps.op("Mul", [dy, steps.op("Add", [phi_integral, slope])])]


def _softmax(steps: tape.Tape, inputs: Sequence[ir.Value | None], node: ir.Node) -> list[ir.Value]:
    dy, y = inputs[:2]
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    along = steps.op("ReduceSum", [steps.op("Mul", [dy, y]), _ints(steps, [axis])])
    return [steps.op("Mul", [steps.op("Sub", [dy, along]), y])]


def _slice(steps: tape.Tape, inputs: Sequence[ir.Value | None], node: ir.Node) -> list[ir.Value]:
    # fast, but it knows no float16: the same between two casts
    return [steps.op("SliceGrad", inputs, node.attributes, domain=node.domain)]


# operator → what replaces it, and how many of its inputs, the first ones, are floats
_EXPANSIONS: dict[str, tuple[Any, int]] = {
    "LayerNormalizationGrad": (_layer_norm, 5),
    "GeluGrad": (_gelu, 2),
    "SoftmaxGrad_13": (_softmax, 2),
    "SliceGrad": (_slice, 1),
}


def _width(gamma: ir.Value | None) -> int:
    if gamma is None or gamma.shape is None or not isinstance(gamma.shape[-1], int):
        raise ValueError("a LayerNormalization whose width is not known")
    return gamma.shape[-1]


def _cast(steps: tape.Tape, value: ir.Value | None, dtype: ir.DataType) -> ir.Value:
    cast = steps.op("Cast", [value], {"to": dtype.value})
    cast.shape = None if value is None else value.shape
    return cast


def _ints(steps: tape.Tape, values: list[int]) -> ir.Value:
    return steps.op("Constant", [], {"value": ir.tensor(np.array(values, dtype=np.int64))})


def _float(steps: tape.Tape, value: float) -> ir.Value:
    return steps.op("Constant", [], {"value": ir.tensor(np.array(value, dtype=np.float32))})
