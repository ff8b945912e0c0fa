"""Three views of the trainable weights: the float masters, what the forward pass sees, and gradients.

The optimizer owns the masters. Before each step the quantized ones (every Linear and Embedding
weight) are rounded to their int8 grid into buffers of their own; biases and LayerNorm are used as they
are. Both engines read these buffers and write gradients into fixed memory, which is what lets ONNX
Runtime bind it once and copy nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from q8bert.training.fake_quantize import fake_quantize_weight_

__all__ = ["TrainableWeights", "prepare_weights", "quantized_parameters"]


def quantized_parameters(model: nn.Module, *, per_channel: bool) -> dict[str, bool]:
    """Return which parameters are quantized, and whether by channel.

    Linear weights follow ``per_channel``. Embedding tables always have one scale: the graph gathers int8 rows and
    then dequantizes the few it gathered, which costs nothing only while the scale is a scalar.

    Args:
        model: A float model.
        per_channel: Granularity of Linear weights.

    Returns:
        Parameter name → True for one scale a row, False for one in all.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[f"{name}.weight"] = per_channel
        elif isinstance(module, nn.Embedding):
            found[f"{name}.weight"] = False
    return found


@dataclass(frozen=True)
class TrainableWeights:
    """The tensors of a training run, all float32 and of fixed address, by parameter name.

    Attributes:
        masters: Float weights, updated by the optimizer.
        effective: What the forward pass reads: quantized buffers, or the masters themselves.
        gradients: Loss gradients with respect to ``effective``; also the masters' ``.grad``.
        quantized: Quantized names → whether by channel.
        padding_rows: Embedding tables whose padding row is never trained → that row.
    """

    masters: Mapping[str, nn.Parameter]
    effective: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    quantized: Mapping[str, bool]
    padding_rows: Mapping[str, int]

    def requantize(self) -> None:
        """Round the current masters into the effective buffers."""
        for name, per_channel in self.quantized.items():
            fake_quantize_weight_(self.effective[name], self.masters[name], per_channel=per_channel)

    def clear_padding_gradients(self) -> None:
        """Zero the gradient of padding rows, as torch does by itself and ONNX Runtime does not."""
        for name, row in self.padding_rows.items():
            self.gradients[name][row] = 0.0


def prepare_weights(model: nn.Module, quantized: Mapping[str, bool]) -> TrainableWeights:
    """Allocate buffers and gradients for a model's parameters.

    Args:
        model: Owner of the masters.
        quantized: Names to quantize, see :func:`quantized_parameters`; empty for float training.

    Returns:
        The tensors; effective buffers are filled.
    """
    masters = dict(model.named_parameters())
    effective = {
        name: torch.empty_like(master) if name in quantized else master.detach() for name, master in masters.items()
    }
    gradients = {name: torch.zeros_like(master) for name, master in masters.items()}
    for name, master in masters.items():
        master.grad = gradients[name]
    padding_rows = {
        f"{name}.weight": module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }
    weights = TrainableWeights(masters, effective, gradients, dict(quantized), padding_rows)
    weights.requantize()
    return weights
