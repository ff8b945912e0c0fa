"""The ONNX form of what a training program is made of, where torch's exporter has none or a slower one.

Standard operators of opset 20 alone: the first with ``Gelu`` as one operator, and one that ONNX Runtime 1.19.2 and
today's both run. Backward formulas are the operators' own derivatives:

- LayerNormalization, ``y = x̂ γ + β`` with ``x̂ = (x − mean) · inv_std``, over the last axis:
  ``dx = inv_std · (g − mean(g) − x̂ · mean(g · x̂))`` with ``g = dy · γ``;
  ``dγ = Σ dy · x̂``, ``dβ = Σ dy`` over all other axes
- Gelu, ``y = x Φ(x)``: ``dx = dy · (Φ(x) + x φ(x))`` with ``Φ = (1 + erf(x / √2)) / 2``, ``φ = exp(−x² / 2) / √(2π)``
- Softmax over an axis: ``dx = y · (dy − Σ dy · y)``
- a lookup of rows: each row's gradients added up

In half precision they are computed in float32, as torch computes them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import opset20, values

from q8bert.spec.quant import ACTIVATION_QMAX
from q8bert.training.programs import operators
from q8bert.training.quantization.learned_ranges import step_size_factor

__all__ = ["DROPOUT_MASK", "OPSET", "UNDECOMPOSED", "dropout_translation", "translations"]

OPSET = 20
DROPOUT_MASK = "DropoutMask"  # stands for a graph input until the graph is whole
_OWN_DOMAIN = "q8bert"
_ATEN = torch.ops.aten
op: Any = opset20  # its own types are those of arrays, and here symbols go through it

# backward operators that torch would take apart into more nodes than the translations below
UNDECOMPOSED = (
    _ATEN.native_layer_norm_backward.default,
    _ATEN.gelu_backward.default,
    _ATEN._softmax_backward_data.default,
    _ATEN.embedding_dense_backward.default,
)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return torch operator → function that writes its ONNX nodes, for ``custom_translation_table``."""
    own = torch.ops.q8bert
    return {
        own.fake_quantize.default: _fake_quantize,
        own.fake_quantize_backward.default: _fake_quantize_backward,
        own.fake_quantize_learned_backward.default: _fake_quantize_learned_backward,
        own.linear.default: _linear,
        own.linear_backward.default: _linear_backward,
        own.largest.default: _largest,
        **dropout_translation(),
        _ATEN.gelu.default: _gelu,
        _ATEN.gelu_backward.default: _gelu_backward,
        _ATEN._softmax_backward_data.default: _softmax_backward,
        _ATEN.native_layer_norm.default: _layer_norm,
        _ATEN.native_layer_norm_backward.default: _layer_norm_backward,
        _ATEN.embedding_dense_backward.default: _embedding_backward,
        _ATEN.squeeze.dims: _squeeze,
        _ATEN.sym_numel.default: _size,
    }


def dropout_translation() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translation of the stand-in of a dropout's mask alone."""
    return {torch.ops.q8bert.dropout_mask.default: _dropout_mask}


def _fake_quantize(x: Any, scale: Any, zero_point: Any) -> Any:
    code = op.Cast(zero_point, to=onnx.TensorProto.INT8)
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, code), scale, code)


def _fake_quantize_backward(dy: Any, x: Any, scale: Any, zero_point: Any) -> Any:
    return op.Where(_is_clamped(x, scale, zero_point), _float(0.0), dy)


def _fake_quantize_learned_backward(dy: Any, x: Any, y: Any, scale: Any, zero_point: Any) -> tuple[Any, Any]:
    clamped = _is_clamped(x, scale, zero_point)
    terms = op.Mul(dy, op.Sub(y, op.Where(clamped, _float(0.0), x)))
    factor = op.Div(_float(step_size_factor(x.shape[-1])), scale)
    return op.Where(clamped, _float(0.0), dy), op.Mul(op.ReduceSum(terms, keepdims=0), factor)


def _is_clamped(x: Any, scale: Any, zero_point: Any) -> Any:
    below = op.Less(x, op.Mul(scale, op.Sub(_float(operators.LOWEST_INSIDE), zero_point)))
    above = op.GreaterOrEqual(x, op.Mul(scale, op.Sub(_float(operators.HIGHEST_INSIDE), zero_point)))
    return op.Or(below, above)


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    n_out, n_in = weight.shape
    rows = _rows(x, n_in)
    # one Gemm that adds the bias, rather than a MatMul and an Add that reads and writes all of it again
    y = op.Gemm(rows, weight, bias, transB=1)
    return y if rows is x else op.Reshape(y, op.Concat(op.Shape(x, end=-1), _ints(n_out), axis=0))


def _linear_backward(dy: Any, x: Any, weight: Any) -> tuple[Any, Any, Any]:
    n_out, n_in = weight.shape
    d_rows, rows = _rows(dy, n_out), _rows(x, n_in)
    dx = op.Gemm(d_rows, weight)
    return (
        dx if d_rows is dy else op.Reshape(dx, op.Shape(x)),
        op.Gemm(d_rows, rows, transA=1),
        op.ReduceSum(d_rows, _ints(0), keepdims=0),
    )


def _largest(x: Any, mask: Any, zero_point: Any) -> Any:
    # ONNX Runtime's CUDA provider compares no bfloat16; in float32 the extremes are the same ones
    wide = _float32(x) if x.dtype == ir.DataType.BFLOAT16 else x
    highest = op.ReduceMax(wide, _ints(-1), keepdims=0)
    lowest = op.ReduceMin(wide, _ints(-1), keepdims=0)
    if x.dtype == ir.DataType.FLOAT16:
        highest, lowest = (op.Cast(value, to=onnx.TensorProto.FLOAT) for value in (highest, lowest))
    most = _float(ACTIVATION_QMAX)
    above = op.Mul(highest, op.Div(most, op.Sub(most, zero_point)))
    found = op.Max(above, op.Mul(lowest, op.Div(_float(-ACTIVATION_QMAX), op.Add(most, zero_point))))
    if len(x.shape) == 3:
        found = op.Where(op.Cast(mask, to=onnx.TensorProto.BOOL), found, _float(0.0))
    return op.ReduceMax(found, keepdims=0)


def _dropout_mask(x: Any, probability: float) -> Any:
    return values.Op(values.Opset(_OWN_DOMAIN, 1), DROPOUT_MASK, _dropout_mask_schema())(x, probability=probability)


def _dropout_mask_schema() -> onnx.defs.OpSchema:
    schema = onnx.defs.OpSchema
    return schema(
        DROPOUT_MASK, _OWN_DOMAIN, 1,
        inputs=[schema.FormalParameter("x", "T")],
        outputs=[schema.FormalParameter("mask", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "floats")],
        attributes=[schema.Attribute("probability", schema.AttrType.FLOAT, required=True)],
    )  # fmt: skip


def _gelu(x: Any, approximate: str = "none") -> Any:
    return op.Gelu(x, approximate=approximate)


def _gelu_backward(dy: Any, x: Any, approximate: str = "none") -> Any:
    if approximate != "none":
        raise NotImplementedError("the gradient of Gelu is written for its exact form alone")
    wide_dy, wide = _float32(dy), _float32(x)
    scaled = op.Mul(wide, _float(math.sqrt(0.5)))
    cumulative = op.Mul(op.Add(op.Erf(scaled), _float(1.0)), _float(0.5))
    density = op.Mul(op.Exp(op.Neg(op.Mul(scaled, scaled))), _float(1 / math.sqrt(2 * math.pi)))
    return _back(op.Mul(wide_dy, op.Add(cumulative, op.Mul(wide, density))), dy)


def _softmax_backward(dy: Any, y: Any, dim: int, input_dtype: Any) -> Any:  # noqa: ARG001 - torch's signature
    wide_dy, wide_y = _float32(dy), _float32(y)
    along = op.ReduceSum(op.Mul(wide_dy, wide_y), _ints(dim))
    return _back(op.Mul(op.Sub(wide_dy, along), wide_y), dy)


def _layer_norm(
    x: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    if weight is None:
        weight = op.CastLike(op.Constant(value_floats=[1.0] * math.prod(normalized_shape)), x)
    return op.LayerNormalization(x, weight, bias, axis=-len(normalized_shape), epsilon=eps)


def _layer_norm_backward(  # noqa: PLR0917 - torch's signature
    dy: Any,
    x: Any,
    normalized_shape: Sequence[int],
    mean: Any,
    inv_std: Any,
    weight: Any = None,
    bias: Any = None,  # noqa: ARG001 - torch's signature
    output_mask: Sequence[bool] = (),  # noqa: ARG001 - what nobody reads is removed later
) -> tuple[Any, Any, Any]:
    if len(normalized_shape) != 1:
        raise NotImplementedError("the gradient of LayerNorm is written for one axis alone")
    wide_dy = _float32(dy)
    normal = op.Mul(op.Sub(_float32(x), _float32(mean)), _float32(inv_std))
    g = wide_dy if weight is None else op.Mul(wide_dy, _float32(weight))
    along = op.ReduceMean(op.Mul(g, normal), _ints(-1))
    centred = op.Sub(g, op.ReduceMean(g, _ints(-1)))
    dx = op.Mul(op.Sub(centred, op.Mul(normal, along)), _float32(inv_std))
    # as (rows, n), so that the sum runs over one axis whatever the rank
    width = normalized_shape[0]
    d_weight = op.ReduceSum(_rows(op.Mul(wide_dy, normal), width, rank=len(x.shape)), _ints(0), keepdims=0)
    d_bias = op.ReduceSum(_rows(wide_dy, width, rank=len(x.shape)), _ints(0), keepdims=0)
    return tuple(_back(value, dy) for value in (dx, d_weight, d_bias))


def _embedding_backward(
    dy: Any,
    ids: Any,
    num_weights: int,
    padding_idx: int,  # noqa: ARG001 - that row's gradient is set to zero by who owns the weights
    scale_grad_by_freq: bool,  # noqa: FBT001 - torch's signature
) -> Any:
    if scale_grad_by_freq:
        raise NotImplementedError("an Embedding with scale_grad_by_freq has no ONNX form here")
    width = dy.shape[-1]
    nothing = op.ConstantOfShape(_ints(num_weights, width))  # float32: ONNX Runtime adds up nothing smaller on CPUs
    rows = _rows(_float32(dy), width, rank=len(dy.shape))
    return _back(op.ScatterND(nothing, op.Reshape(ids, _ints(-1, 1)), rows, reduction="add"), dy)


def _squeeze(x: Any, dim: Sequence[int]) -> Any:
    return op.Squeeze(x, _ints(*dim))


def _size(x: Any) -> Any:
    return op.Size(x)


def _rows(x: Any, width: int, *, rank: int | None = None) -> Any:
    return x if (len(x.shape) if rank is None else rank) == 2 else op.Reshape(x, _ints(-1, width))


def _float32(x: Any) -> Any:
    return x if x.dtype in {None, ir.DataType.FLOAT} else op.Cast(x, to=onnx.TensorProto.FLOAT)


def _back(wide: Any, like: Any) -> Any:
    return wide if like.dtype in {None, ir.DataType.FLOAT} else op.Cast(wide, to=int(like.dtype))


def _ints(*numbers: int) -> Any:
    return op.Constant(value_ints=list(numbers))


def _float(number: float) -> Any:
    return op.Constant(value=onnx.helper.make_tensor("number", onnx.TensorProto.FLOAT, [], [number]))
