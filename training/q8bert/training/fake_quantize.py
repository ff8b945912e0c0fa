"""The quantization formula in torch: codes and scales of weights, straight-through activations.

Same numbers as :mod:`q8bert.spec.quant`, bit for bit. Only two things are differentiated through
fake quantization:

- Activations: the gradient passes where the code was inside −128…127 and is zero where it was
  clamped. ONNX Runtime's ``FakeQuant`` does the same.
- Weights: their scale comes from their own largest value, so no code is ever clamped and the
  straight-through gradient is 1 everywhere. Weights are therefore quantized *outside* the
  differentiated graph, once an optimizer step, and the gradient with respect to the quantized
  weight is that of the weight.
"""

from typing import Any

import torch
from torch import Tensor

from q8bert.spec.quant import ACTIVATION_QMAX, ACTIVATION_QMIN, MIN_AMAX, WEIGHT_QMAX, WEIGHT_QMIN

__all__ = ["fake_quantize", "fake_quantize_weight_", "quantize_weight", "scale_from_amax", "weight_scale"]

_CHUNK = 2**18  # weights rounded at a time: 1 MB, so that every pass but the first finds them in the cache


def scale_from_amax(amax: Tensor) -> Tensor:
    """Turn largest absolute values into scales, ``max(amax, MIN_AMAX) / 127``.

    Args:
        amax: Float32, any shape.

    Returns:
        Float32 of the same shape, always > 0.
    """
    return amax.clamp(min=MIN_AMAX) / WEIGHT_QMAX


def weight_scale(weight: Tensor, *, per_channel: bool) -> Tensor:
    """Return the scale of a weight from its current largest absolute value.

    Args:
        weight: Float32 ``(out_features, in_features)``, or an embedding table ``(rows, width)``.
        per_channel: One scale a row of ``weight`` (an output channel of a Linear), else one in all.

    Returns:
        Float32 ``(out_features, 1)`` or ``(1, 1)``; ONNX sense, always > 0.
    """
    weight = weight.detach()
    # no abs(): it would write a copy of the largest table in every step
    if per_channel:
        lowest, largest = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
    else:
        lowest, largest = (value.reshape(1, 1) for value in torch.aminmax(weight))
    return scale_from_amax(torch.maximum(-lowest, largest))


def quantize_weight(weight: Tensor, *, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Return the integer codes of a weight, −127…127, and their scale.

    Args:
        weight: Float32 ``(out_features, in_features)``.
        per_channel: One scale a row, else one in all.

    Returns:
        Int8 codes of the weight's shape, and the scale as :func:`weight_scale` gives it.
    """
    scale = weight_scale(weight, per_channel=per_channel)
    codes = torch.round(weight.detach() / scale).clamp_(WEIGHT_QMIN, WEIGHT_QMAX)
    return codes.to(torch.int8), scale


def fake_quantize_weight_(out: Tensor, weight: Tensor, *, per_channel: bool) -> None:
    """Write the fake-quantized ``weight`` into ``out``: ``codes * scale``.

    Args:
        out: Float32, the weight's shape; overwritten.
        weight: Float32 ``(out_features, in_features)``.
        per_channel: One scale a row, else one in all.
    """
    with torch.no_grad():
        scale = weight_scale(weight, per_channel=per_channel)
        n_rows = max(1, _CHUNK // weight.shape[1])
        for start in range(0, weight.shape[0], n_rows):
            rows = slice(start, start + n_rows)
            step = scale[rows] if per_channel else scale
            torch.div(weight[rows], step, out=out[rows])
            out[rows].round_().clamp_(WEIGHT_QMIN, WEIGHT_QMAX).mul_(step)


def fake_quantize(x: Tensor, scale: Tensor) -> Tensor:
    """Round activations to the int8 grid, with a straight-through gradient inside the clamp.

    Computes ``clamp(round_half_even(x / scale), -128, 127) * scale``.

    Args:
        x: Float32 activations ``(..., features)``.
        scale: Float32 scalar, real units per integer step, > 0.

    Returns:
        Float32 of the shape of ``x``; its gradient is passed on where the code was not clamped.

    References:
        Zafrir et al. 2019, "Q8BERT", arXiv 1910.06188: symmetric linear quantization with a
        straight-through estimator. ONNX ``QuantizeLinear`` → ``DequantizeLinear``.
    """
    result: Tensor = _FakeQuantize.apply(x, scale)  # type: ignore[no-untyped-call]
    return result


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        codes = torch.round(x / scale)
        clamped = codes.clamp(ACTIVATION_QMIN, ACTIVATION_QMAX)
        ctx.save_for_backward(codes == clamped)
        return clamped.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return grad_output * inside, None
