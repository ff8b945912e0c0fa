"""Three views of the trainable weights: the float masters, what the forward pass sees, and gradients.

The optimizer owns the masters. Before each step the quantized ones (every Linear and Embedding
weight) are smoothed and rounded to their int8 grid into buffers of their own; biases and LayerNorm are used as they
are. Both engines read these buffers and write gradients into fixed memory, which is what lets ONNX
Runtime bind it once and copy nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from q8bert.training.quantization.config import QuantizationConfig
from q8bert.training.quantization.fake_quantize import WeightGrid, fake_quantize_weight_
from q8bert.training.quantization.sites import Site, column_factors

__all__ = ["TrainableWeights", "grids_of", "prepare_weights", "quantized_parameters", "refresher"]

_ALIGNMENT = 16  # float32 values, 64 bytes: a cache line, and the widest vector of a CPU


def quantized_parameters(
    model: nn.Module,
    *,
    per_channel: bool,
    per_column: bool = True,
    saturation_free: bool = True,
    keep_float: Sequence[str] = (),
) -> dict[str, WeightGrid]:
    """Return which parameters are quantized, and on which grid.

    Rows of an embedding table are looked up, not multiplied. The graph gathers int8 rows and dequantizes the few it
    gathered: scales of columns fit all of them, where scales of rows would have to be looked up too.

    Args:
        model: A float model.
        per_channel: Whether Linear weights have a scale an output channel, or one each.
        per_column: Whether embedding tables have a scale a column, or one each.
        saturation_free: Whether Linear weights are kept from overflowing on CPUs without VNNI.
        keep_float: Names of layers that stay float.

    Returns:
        Parameter name → its grid.
    """
    of_linears = WeightGrid(0 if per_channel else None, saturation_free)
    of_tables = WeightGrid(1 if per_column else None)
    grids = {}
    for name, module in model.named_modules():
        if name in keep_float:
            continue
        if isinstance(module, nn.Linear):
            grids[f"{name}.weight"] = of_linears
        elif isinstance(module, nn.Embedding):
            grids[f"{name}.weight"] = of_tables
    return grids


def grids_of(model: nn.Module, options: QuantizationConfig, *, float_layers: Sequence[str]) -> dict[str, WeightGrid]:
    """Return which parameters options quantize, and on which grid.

    Args:
        model: A float model.
        options: What they say.
        float_layers: Names of layers that stay float, which its patterns match.

    Returns:
        Parameter name → its grid; none where nothing is quantized.
    """
    if not options.quantize:
        return {}
    return quantized_parameters(
        model,
        per_channel=options.per_channel,
        per_column=options.per_column,
        saturation_free=options.saturation_free,
        keep_float=float_layers,
    )


@dataclass(frozen=True)
class TrainableWeights:
    """The tensors of a training run, all float32 and of fixed address, by parameter name.

    Attributes:
        masters: Float weights, updated by the optimizer.
        effective: What the forward pass reads: quantized buffers, or the masters themselves.
        gradient: All gradients in one vector; what adds up, clips or sends them treats them as one.
        gradients: Loss gradients with respect to the masters, views of ``gradient``; also the masters' ``.grad``.
        quantized: Quantized names → their grid.
        smoothing: Names of smoothed weights → what their columns are multiplied by, float32 ``(in_features,)``.
        padding_rows: Embedding tables whose padding row is never trained → that row.
    """

    masters: Mapping[str, nn.Parameter]
    effective: Mapping[str, Tensor]
    gradient: Tensor
    gradients: Mapping[str, Tensor]
    quantized: Mapping[str, WeightGrid]
    smoothing: Mapping[str, Tensor]
    padding_rows: Mapping[str, int]

    def refresh(self) -> None:
        """Bring the quantized buffers up to the current masters."""
        with torch.no_grad():
            for name, grid in self.quantized.items():
                fake_quantize_weight_(self.effective[name], self.smoothed(name), grid)

    def smoothed(self, name: str) -> Tensor:
        """Return a master as it is before rounding, its columns multiplied where its input is divided."""
        master = self.masters[name].detach()
        return master * self.smoothing[name] if name in self.smoothing else master

    def finish_gradients(self) -> None:
        """Turn gradients with respect to ``effective``, as an engine computes them, into those of the masters.

        Smoothed columns are scaled; padding rows are zeroed, as torch does by itself and ONNX Runtime does not.
        """
        for name, factors in self.smoothing.items():
            self.gradients[name].mul_(factors)
        for name, row in self.padding_rows.items():
            self.gradients[name][row] = 0.0


def prepare_weights(model: nn.Module, quantized: Mapping[str, WeightGrid], sites: Sequence[Site]) -> TrainableWeights:
    """Allocate buffers and gradients for a model's parameters.

    Args:
        model: Owner of the masters.
        quantized: Names to quantize, see :func:`quantized_parameters`; empty for float training.
        sites: Where activations are quantized, which says which weights are smoothed; empty for float training.

    Returns:
        The tensors; effective buffers are filled.
    """
    masters = dict(model.named_parameters())
    effective = {
        name: torch.empty_like(master) if name in quantized else master.detach() for name, master in masters.items()
    }
    gradient, gradients = _one_vector(masters)
    for name, master in masters.items():
        master.grad = gradients[name]
    padding_rows = {
        f"{name}.weight": module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }
    smoothing = {f"{name}.weight": factors.to(gradient.device) for name, factors in column_factors(sites).items()}
    weights = TrainableWeights(masters, effective, gradient, gradients, dict(quantized), smoothing, padding_rows)
    weights.refresh()
    return weights


def refresher(weights: TrainableWeights) -> Callable[[], None]:
    """Return what brings the quantized buffers up to the masters, in one launch on a GPU.

    Some 17 small kernels a matrix would take the host longer to launch than the GPU to run. They read and write fixed
    memory, so they are recorded once and replayed.

    Args:
        weights: The tensors; their addresses must not change.

    Returns:
        Function without arguments; it has run once already.
    """
    weights.refresh()
    if weights.gradient.device.type != "cuda" or not weights.quantized:
        return weights.refresh
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        weights.refresh()
    return graph.replay


def _one_vector(masters: Mapping[str, nn.Parameter]) -> tuple[Tensor, dict[str, Tensor]]:
    starts, end = {}, 0
    for name, master in masters.items():
        starts[name] = end
        end += -(-master.numel() // _ALIGNMENT) * _ALIGNMENT
    device = next(iter(masters.values())).device
    vector = torch.zeros(end, device=device)
    views = {
        name: vector[starts[name] : starts[name] + master.numel()].view(master.shape)
        for name, master in masters.items()
    }
    return vector, views
