"""The operators that a training program is traced with, in torch: what each computes, its gradient, its shapes.

torch's own backward pass writes most of a training program. A few operations are traced whole, as operators of ours,
because they then become the ONNX nodes that ONNX Runtime runs best (:mod:`~q8bert.training.programs.translations`), and
because torch has no ONNX form for them: a Linear with its three gradients, fake quantization, the observation of an
activation, and the mask of a dropout. Each is defined by the torch code below, which its tests compare with.

:class:`ProgramOperators` puts them in the place of torch's functions while a model is traced.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from q8bert.spec.quant import ACTIVATION_QMAX, ACTIVATION_QMIN
from q8bert.training.quantization.learned_ranges import step_size_factor
from q8bert.training.quantization.quantized_model import largest_of_tokens

__all__ = [
    "HIGHEST_INSIDE",
    "LOWEST_INSIDE",
    "ProgramOperators",
    "dropout_to_mask",
    "largest",
    "linear_to_one_node",
    "quantize_activation",
]

# In codes, the borders of what is not clamped. Half goes to even: −128.5 becomes −128 and is inside, 127.5 becomes 128
# and is not. Zero points are even, so with one it is the same.
LOWEST_INSIDE, HIGHEST_INSIDE = ACTIVATION_QMIN - 0.5, ACTIVATION_QMAX + 0.5


@torch.library.custom_op("q8bert::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return ``(clip(round_half_even(x / scale) + zero_point, -128, 127) - zero_point) * scale``, all of it float32."""
    return torch.round(x / scale).clamp(ACTIVATION_QMIN - zero_point, ACTIVATION_QMAX - zero_point) * scale


@torch.library.custom_op("q8bert::fake_quantize_backward", mutates_args=())
def fake_quantize_backward(dy: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return the straight-through gradient: ``dy`` where the code was not clamped, else 0."""
    below, above = (LOWEST_INSIDE - zero_point) * scale, (HIGHEST_INSIDE - zero_point) * scale
    return dy.masked_fill((x < below) | (x >= above), 0.0)


@torch.library.custom_op("q8bert::fake_quantize_learned_backward", mutates_args=())
def fake_quantize_learned_backward(
    dy: Tensor, x: Tensor, y: Tensor, scale: Tensor, zero_point: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the straight-through gradient, and that of the scale with its factor; ``y`` is what was computed."""
    below, above = (LOWEST_INSIDE - zero_point) * scale, (HIGHEST_INSIDE - zero_point) * scale
    outside = (x < below) | (x >= above)
    total = (dy * (y - x.masked_fill(outside, 0.0))).sum()
    return dy.masked_fill(outside, 0.0), total * (step_size_factor(x.shape[-1]) / scale)


@torch.library.custom_op("q8bert::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x @ weight.T + bias``, ``(..., out_features)``."""
    return functional.linear(x, weight, bias)


@torch.library.custom_op("q8bert::linear_backward", mutates_args=())
def linear_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a Linear with respect to ``x``, ``weight`` and the bias."""
    rows = dy.flatten(0, -2)
    return dy @ weight, rows.t() @ x.flatten(0, -2), rows.sum(0)


@torch.library.custom_op("q8bert::largest", mutates_args=())
def largest(x: Tensor, mask: Tensor, zero_point: Tensor) -> Tensor:
    """Return what :func:`~q8bert.training.quantization.quantized_model.largest_of_tokens` does."""
    return largest_of_tokens(x, mask, zero_point)


@torch.library.custom_op("q8bert::dropout_mask", mutates_args=())
def dropout_mask(x: Tensor, probability: float) -> Tensor:  # noqa: ARG001 - it stands in the traced graph
    """Stand for a mask of the shape of ``x``, which the program takes as an input; here nothing is dropped."""
    return torch.ones_like(x)


class ProgramOperators(TorchFunctionMode):
    """While active, functions of torch are replaced by others, so that no model need be rewritten.

    Args:
        replacements: Function of ``torch.nn.functional`` → what runs in its place, with the same arguments.
    """

    def __init__(self, replacements: Mapping[Any, Callable[..., Tensor]]) -> None:
        super().__init__()
        self._replacements = dict(replacements)

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self._replacements.get(func, func)(*args, **(kwargs or {}))


def quantize_activation(x: Tensor, scale: Tensor, zero_point: Tensor, site: int, /) -> Tensor:  # noqa: ARG001 - every quantizer is told the site
    """Fake-quantize one activation of a training program, in float32 whatever its type."""
    y: Tensor = fake_quantize(x.float(), scale, zero_point)
    return y.to(x.dtype)


def linear_to_one_node(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002 - torch's name
    """Stand for ``torch.nn.functional.linear``."""
    y: Tensor = linear(input, weight, bias)
    return y


def dropout_to_mask(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002, ARG001, FBT001, FBT002
    """Stand for ``torch.nn.functional.dropout``."""
    # a product, so that torch's own backward pass multiplies by the same mask
    return input * dropout_mask(input.detach(), p) if training and p > 0 else input


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


@fake_quantize_backward.register_fake
def _(dy: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(dy)


@fake_quantize_learned_backward.register_fake
def _(dy: Tensor, x: Tensor, y: Tensor, scale: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return torch.empty_like(dy), torch.empty_like(scale)


@linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@linear_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    return torch.empty_like(x), torch.empty_like(weight), weight.new_empty(weight.shape[:1])


@largest.register_fake
def _(x: Tensor, mask: Tensor, zero_point: Tensor) -> Tensor:  # noqa: ARG001
    return x.new_empty((), dtype=torch.float32)


@dropout_mask.register_fake
def _(x: Tensor, probability: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


def _save_fake_quantize(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, *([output] if ctx.needs_input_grad[1] else []))


def _fake_quantize_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None]:
    x, scale, zero_point, *learned = ctx.saved_tensors
    if not learned:
        return fake_quantize_backward(dy, x, scale, zero_point), None, None
    return *fake_quantize_learned_backward(dy, x, *learned, scale, zero_point), None


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _linear_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    x, weight = ctx.saved_tensors
    dx, d_weight, d_bias = linear_backward(dy, x, weight)
    return dx, d_weight, d_bias if ctx.has_bias else None


fake_quantize.register_autograd(_fake_quantize_gradients, setup_context=_save_fake_quantize)
linear.register_autograd(_linear_gradients, setup_context=_save_linear)
