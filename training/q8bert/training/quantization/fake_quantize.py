"""The quantization formula in torch: codes and scales of weights, straight-through activations.

Same numbers as :mod:`q8bert.spec.quant`, bit for bit. Differentiated through fake quantization are:

- Activations: the gradient passes where the code was inside −128…127 and is zero where it was
  clamped. ONNX Runtime's ``FakeQuant`` does the same.
- Their scales, where ranges are learned; see :mod:`~q8bert.training.quantization.learned_ranges`.
- Weights: their scale comes from their own largest values, so no code is ever clamped and the
  straight-through gradient is 1 everywhere. Weights are therefore quantized *outside* the
  differentiated graph, once an optimizer step, and the gradient with respect to the quantized
  weight is that of the weight.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from q8bert.spec.quant import ACTIVATION_QMAX, ACTIVATION_QMIN, MIN_AMAX, WEIGHT_QMAX, WEIGHT_QMIN
from q8bert.training.quantization.learned_ranges import step_size_factor

__all__ = [
    "WeightGrid",
    "fake_quantize",
    "fake_quantize_weight_",
    "quantize_weight",
    "scale_from_amax",
    "weight_scale",
]

_CHUNK = 2**18  # weights rounded at a time: 1 MB, so that every pass but the first finds them in the cache


@dataclass(frozen=True)
class WeightGrid:
    """How the scales of a weight follow from its values.

    Attributes:
        axis: 0: a scale a row (an output channel of a Linear). 1: a scale a column (of an embedding table). None: one
            scale in all.
        saturation_free: Whether sums of neighbouring pairs in a row count as values too, so that no pair of products
            can overflow on CPUs without VNNI; see :mod:`q8bert.spec.saturation`. Of Linear weights alone.
    """

    axis: int | None
    saturation_free: bool = False


def scale_from_amax(amax: Tensor) -> Tensor:
    """Turn largest absolute values into scales, ``max(amax, MIN_AMAX) / 127``.

    Args:
        amax: Float32, any shape.

    Returns:
        Float32 of the same shape, always > 0.
    """
    return amax.clamp(min=MIN_AMAX) / WEIGHT_QMAX


def weight_scale(weight: Tensor, grid: WeightGrid) -> Tensor:
    """Return the scale of a weight from its current values.

    Args:
        weight: Float32 ``(out_features, in_features)``, or an embedding table ``(rows, width)``.
        grid: How.

    Returns:
        Float32 ``(rows, 1)``, ``(1, columns)`` or ``(1, 1)``; ONNX sense, always > 0.
    """
    parts = torch.split(weight.detach(), _rows_at_a_time(weight))
    if grid.axis == 1:
        largest = torch.stack([_largest(part, dim=0) for part in parts]).amax(dim=0)
        return scale_from_amax(largest[None])
    largest = torch.cat([_largest_of_rows(part, grid) for part in parts])
    return scale_from_amax(largest.max().reshape(1, 1) if grid.axis is None else largest[:, None])


def quantize_weight(weight: Tensor, grid: WeightGrid) -> tuple[Tensor, Tensor]:
    """Return the integer codes of a weight, −127…127, and their scale.

    Args:
        weight: Float32 ``(out_features, in_features)``, or an embedding table ``(rows, width)``.
        grid: How.

    Returns:
        Int8 codes of the weight's shape, and the scale as :func:`weight_scale` gives it.
    """
    scale = weight_scale(weight, grid)
    codes = torch.round(weight.detach() / scale).clamp_(WEIGHT_QMIN, WEIGHT_QMAX)
    return codes.to(torch.int8), scale


def fake_quantize_weight_(out: Tensor, weight: Tensor, grid: WeightGrid) -> None:
    """Write the fake-quantized ``weight`` into ``out``: ``codes * scale``.

    Args:
        out: Float32, the weight's shape; overwritten.
        weight: Float32 ``(out_features, in_features)``, or an embedding table ``(rows, width)``.
        grid: How.
    """
    with torch.no_grad():
        scale = weight_scale(weight, grid)
        n_rows = _rows_at_a_time(weight)
        for start in range(0, weight.shape[0], n_rows):
            rows = slice(start, start + n_rows)
            step = scale[rows] if grid.axis == 0 else scale
            torch.div(weight[rows], step, out=out[rows])
            out[rows].round_().clamp_(WEIGHT_QMIN, WEIGHT_QMAX).mul_(step)


def _rows_at_a_time(weight: Tensor) -> int:
    if weight.device.type != "cpu":
        return weight.shape[0]  # a GPU wants few large kernels
    return max(1, _CHUNK // weight.shape[1])


def _largest_of_rows(weight: Tensor, grid: WeightGrid) -> Tensor:
    largest = _largest(weight, dim=1)
    if grid.saturation_free and weight.shape[1] > 1:
        sums = weight[:, : weight.shape[1] // 2 * 2 : 2] + weight[:, 1::2]
        largest = torch.maximum(largest, _largest(sums, dim=1))
    return largest


def _largest(x: Tensor, *, dim: int) -> Tensor:
    return torch.maximum(-x.amin(dim=dim), x.amax(dim=dim))  # no abs(): it would write a copy


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Round activations to the int8 grid, with a straight-through gradient inside the clamp.

    Computes ``(clamp(round_half_even(x / scale) + zero_point, -128, 127) - zero_point) * scale``.

    Args:
        x: Float32 activations ``(..., features)``.
        scale: Float32 scalar, real units per integer step, > 0.
        zero_point: Float32 scalar, code of 0; even.

    Returns:
        Float32 of the shape of ``x``; its gradient is passed on where the code was not clamped. If the scale requires a
        gradient, it gets that of learned step sizes, with their factor.

    References:
        Zafrir et al. 2019, "Q8BERT", arXiv 1910.06188: linear quantization with a
        straight-through estimator. ONNX ``QuantizeLinear`` → ``DequantizeLinear``. Of the scale:
        :mod:`~q8bert.training.quantization.learned_ranges`.
    """
    result: Tensor = _FakeQuantize.apply(x, scale, zero_point)  # type: ignore[no-untyped-call]
    return result


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        codes = torch.round(x / scale)  # less the zero point, here and below: two passes over x are saved
        clamped = codes.clamp(ACTIVATION_QMIN - zero_point, ACTIVATION_QMAX - zero_point)
        inside = codes == clamped
        y = clamped.mul_(scale)
        ctx.save_for_backward(inside, *((x, y, scale) if ctx.needs_input_grad[1] else ()))
        return y

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor | None, None]:
        inside, *more = ctx.saved_tensors
        d_scale = None
        if more:
            x, y, scale = more
            # y / scale is the code less the zero point, clamped or not
            terms = grad_output * (y - torch.where(inside, x, 0.0))
            d_scale = terms.sum() / scale * step_size_factor(x.shape[-1])
        return grad_output * inside, d_scale, None
