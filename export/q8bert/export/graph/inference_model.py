"""A trained classifier rebuilt for export: INT8 weights as constants, QDQ pairs at every site.

Each layer is replaced by one that traces to exactly the ONNX nodes wanted, so that the exported graph is right by
construction and needs no pattern matching afterwards:

- Linear → ``MatMul(x, DequantizeLinear(codes, scale))`` + bias, the codes already transposed to
  ``(in_features, out_features)``, for a Transpose between the pair and the MatMul keeps ONNX Runtime
  from fusing them;
- Embedding → ``DequantizeLinear(Gather(codes, ids), scale)``, a scale a column, which dequantizes only the rows that
  occur;
- a site's activation → ``QuantizeLinear`` → ``DequantizeLinear`` with zero point 0, after a ``Mul`` where the site is
  smoothed; the codes are then those of the smoothed weight;
- scores that were learned in units of their own → ``Mul`` and ``Add`` at the end, which bring them to the user's.

Biases stay float32: added after the MatMul, they cost nothing, and TensorRT refuses int32
``DequantizeLinear``. Weights and tables name no zero point, which means 0. Every pair of an activation has scales and
zero points of its own, because ONNX Runtime's ``x64quantprecision`` option fails on shared ones.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from q8bert.training.engines.torch_engine import quantize_activation
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale
from q8bert.training.quantization.fake_quantize import WeightGrid, quantize_weight, scale_from_amax
from q8bert.training.quantization.quantized_model import QuantizedModel
from q8bert.training.quantization.sites import Site, column_factors

__all__ = ["InferenceModel"]


class InferenceModel(nn.Module):
    """What is exported: inputs → logits, by keyword.

    Args:
        model: Trained float classifier; copied, not changed.
        sites: Where activations are quantized; empty exports a float model.
        amax: Float32 ``(n_sites,)``, learned ranges; ignored without sites.
        quantized: Names of quantized weights → their grid; empty for a float model.
        target_scale: Between scores and what the classifier computes.
    """

    target_mean: Tensor | None
    target_std: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        amax: Tensor,
        quantized: Mapping[str, WeightGrid],
        target_scale: TargetScale = UNSCALED,
    ) -> None:
        super().__init__()
        replaced = _replace_layers(copy.deepcopy(model).eval(), quantized, column_factors(sites))
        self.pairs = nn.ModuleList(_QdqPair(scale) for scale in scale_from_amax(amax))
        self.register_buffer("_amax", amax if sites else None, persistent=False)
        self._quantized = QuantizedModel(replaced, sites, self._quantize)
        is_scaled = target_scale != UNSCALED
        self.register_buffer("target_mean", torch.tensor(target_scale.mean) if is_scaled else None)
        self.register_buffer("target_std", torch.tensor(target_scale.std) if is_scaled else None)

    @property
    def classifier(self) -> nn.Module:
        """The rebuilt classifier."""
        return self._quantized.model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return logits ``(batch, n_outputs)`` of int64 inputs ``(batch, seq)``."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        outputs, _ = self._quantized(inputs, self._amax)
        logits: Tensor = outputs["logits"]
        if self.target_std is None or self.target_mean is None:
            return logits
        return logits * self.target_std + self.target_mean

    def _quantize(self, x: Tensor, scale: Tensor, site: int, /) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return self.pairs[site](x)  # type: ignore[no-any-return]
        return quantize_activation(x, scale, site)


class _QdqPair(nn.Module):
    """``QuantizeLinear`` → ``DequantizeLinear`` of one activation, int8, zero point 0."""

    quantize_scale: Tensor
    quantize_zero_point: Tensor
    dequantize_scale: Tensor
    dequantize_zero_point: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        for name in ("quantize", "dequantize"):
            self.register_buffer(f"{name}_scale", scale.clone())
            self.register_buffer(f"{name}_zero_point", torch.zeros((), dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        codes = torch.onnx.ops.symbolic(
            "QuantizeLinear",
            (x, self.quantize_scale, self.quantize_zero_point),
            dtype=torch.int8,
            shape=x.shape,
        )
        return _dequantize(codes, self.dequantize_scale, self.dequantize_zero_point)


class _QuantizedLinear(nn.Module):
    """``x @ dequantized weight + bias``, the weight smoothed and stored as int8 ``(in_features, out_features)``."""

    weight_codes: Tensor
    weight_scale: Tensor

    def __init__(self, linear: nn.Linear, grid: WeightGrid, smoothing: Tensor | None) -> None:
        super().__init__()
        codes, scale = quantize_weight(linear.weight if smoothing is None else linear.weight * smoothing, grid)
        self.register_buffer("weight_codes", codes.t().contiguous())
        self.register_buffer("weight_scale", scale.flatten() if grid.axis == 0 else scale.reshape(()))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            weight = _dequantize(self.weight_codes, self.weight_scale, axis=1)
        else:
            weight = self.weight_codes.float() * self.weight_scale
        return _matmul(x, weight, self.bias)


class _FloatLinear(nn.Module):
    """``x @ weight + bias`` with the weight stored as float32 ``(in_features, out_features)``."""

    weight: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().t().contiguous())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return _matmul(x, self.weight, self.bias)


class _QuantizedEmbedding(nn.Module):
    """Rows of an int8 table, dequantized after they were gathered."""

    table_codes: Tensor
    table_scale: Tensor

    def __init__(self, embedding: nn.Embedding, grid: WeightGrid) -> None:
        super().__init__()
        codes, scale = quantize_weight(embedding.weight, grid)
        self.register_buffer("table_codes", codes)
        self.register_buffer("table_scale", scale.flatten() if grid.axis == 1 else scale.reshape(()))

    def forward(self, ids: Tensor) -> Tensor:
        codes = nn.functional.embedding(ids, self.table_codes)
        if torch.onnx.is_in_onnx_export():
            return _dequantize(codes, self.table_scale, axis=codes.dim() - 1)
        return codes.float() * self.table_scale


def _matmul(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # MatMul + Add of a two-dimensional x becomes a Gemm in ONNX Runtime, which stays in float; of a
    # three-dimensional x it stays a MatMul, which is fused to integers
    flat = x.dim() == 2
    y = torch.matmul(x.unsqueeze(1) if flat else x, weight)
    y = y if bias is None else y + bias
    return y.squeeze(1) if flat else y


def _dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 0) -> Tensor:
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (codes, scale) if zero_point is None else (codes, scale, zero_point),
        {"axis": axis} if scale.dim() else None,  # one scale for all has no axis
        dtype=torch.float32,
        shape=codes.shape,
    )


def _replace_layers(
    model: nn.Module, quantized: Mapping[str, WeightGrid], smoothing: Mapping[str, Tensor]
) -> nn.Module:
    makers: dict[str, Callable[[], nn.Module]] = {}
    for name, module in model.named_modules():
        weight = f"{name}.weight"
        if isinstance(module, nn.Linear):
            makers[name] = lambda module=module, name=name, weight=weight: (
                _QuantizedLinear(module, quantized[weight], smoothing.get(name))
                if weight in quantized
                else _FloatLinear(module)
            )  # type: ignore[misc]
        elif isinstance(module, nn.Embedding) and weight in quantized:
            makers[name] = lambda module=module, weight=weight: _QuantizedEmbedding(module, quantized[weight])  # type: ignore[misc]
    for name, make in makers.items():
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, make())
    return model
