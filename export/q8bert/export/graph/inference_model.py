"""A trained classifier rebuilt for export: INT8 weights as constants, QDQ pairs at every site.

Each layer is replaced by one that traces to exactly the ONNX nodes wanted, so that the exported graph is right by
construction and needs no pattern matching afterwards:

- Linear → ``MatMul(x, DequantizeLinear(codes, scale))`` + bias, the codes already transposed to
  ``(in_features, out_features)``, for a Transpose between the pair and the MatMul keeps ONNX Runtime
  from fusing them;
- Embedding → ``DequantizeLinear(Gather(codes, ids), scale)``, a scale a column, which dequantizes only the rows that
  occur;
- a site's activation → ``QuantizeLinear`` → ``DequantizeLinear`` with the site's zero point, after a ``Mul`` where it
  is smoothed; the codes are then those of the smoothed weight;
- scores that were learned in units of their own → ``Mul`` and ``Add`` at the end, which bring them to the user's.

Some runtimes take zero point 0 alone, and scales by axis of constants alone. For them the same model has a *symmetric*
form. A zero point becomes an ``Add`` before the site, and a bias that takes it back, for with a step ``s``

    x W + b = (x + z s) W + (b − z s Σ W),

and ``x + z s`` has the codes on the grid with zero point 0 that ``x`` has on its own. A table's rows are dequantized
with scale 1, and a ``Mul`` scales their columns.

Biases stay float32: added after the MatMul, they cost nothing, and TensorRT refuses int32
``DequantizeLinear``. Weights name no zero point, which means 0. Tables do, for ONNX Runtime 1.19.2 carries their scale
past a Transpose (of MPNet's table of relative positions) and fails where it finds none. Every pair of an activation has
scales and zero points of its own, because ONNX Runtime's ``x64quantprecision`` option fails on shared ones.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from q8bert.training.objectives.target_scale import UNSCALED, TargetScale
from q8bert.training.quantization.fake_quantize import WeightGrid, fake_quantize, quantize_weight, scale_from_amax
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
        symmetric: Whether zero points and scales of tables take their symmetric form.
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
        *,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        scales = scale_from_amax(amax)
        shifts = {
            linear: site.zero_point * scale
            for site, scale in zip(sites, scales, strict=False)  # a float model has no sites
            for linear in site.linears
            if symmetric and site.zero_point
        }
        copied = copy.deepcopy(model).eval()
        replaced = _replace_layers(copied, quantized, column_factors(sites), shifts, symmetric=symmetric)
        self.pairs = nn.ModuleList(
            _QdqPair(scale, 0 if symmetric else site.zero_point, shifts.get(site.linears[0]))
            for site, scale in zip(sites, scales, strict=False)
        )
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

    def _quantize(self, x: Tensor, scale: Tensor, zero_point: Tensor, site: int, /) -> Tensor:  # noqa: ARG002
        y: Tensor = self.pairs[site](x)  # which has scale and zero point as constants
        return y


class _QdqPair(nn.Module):
    """``QuantizeLinear`` → ``DequantizeLinear`` of one activation, int8; an ``Add`` before them if it is shifted."""

    quantize_scale: Tensor
    quantize_zero_point: Tensor
    dequantize_scale: Tensor
    dequantize_zero_point: Tensor
    shift: Tensor | None

    def __init__(self, scale: Tensor, zero_point: int, shift: Tensor | None) -> None:
        super().__init__()
        for name in ("quantize", "dequantize"):
            self.register_buffer(f"{name}_scale", scale.clone())
            self.register_buffer(f"{name}_zero_point", torch.tensor(zero_point, dtype=torch.int8))
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.shift is None else x + self.shift
        if not torch.onnx.is_in_onnx_export():
            return fake_quantize(x, self.quantize_scale, self.quantize_zero_point.float())
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

    def __init__(self, linear: nn.Linear, grid: WeightGrid, smoothing: Tensor | None, shift: Tensor | None) -> None:
        super().__init__()
        codes, scale = quantize_weight(linear.weight if smoothing is None else linear.weight * smoothing, grid)
        self.register_buffer("weight_codes", codes.t().contiguous())
        self.register_buffer("weight_scale", scale.flatten() if grid.axis == 0 else scale.reshape(()))
        self.bias = linear.bias
        if shift is not None:
            taken_back = -float(shift) * (codes.double().sum(dim=1) * scale.double().flatten())
            bias = taken_back if linear.bias is None else linear.bias.detach().double() + taken_back
            self.bias = nn.Parameter(bias.float(), requires_grad=False)

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
    table_zero_point: Tensor
    column_scale: Tensor | None

    def __init__(self, embedding: nn.Embedding, grid: WeightGrid, *, symmetric: bool) -> None:
        super().__init__()
        codes, scale = quantize_weight(embedding.weight, grid)
        self.register_buffer("table_codes", codes)
        # in the symmetric form, one step is 1 and a product scales the columns
        is_apart = symmetric and grid.axis == 1
        self.register_buffer("column_scale", scale.flatten() if is_apart else None)
        scale = torch.ones(()) if is_apart else scale.flatten() if grid.axis == 1 else scale.reshape(())
        self.register_buffer("table_scale", scale)
        self.register_buffer("table_zero_point", torch.zeros_like(scale, dtype=torch.int8))

    def forward(self, ids: Tensor) -> Tensor:
        codes = nn.functional.embedding(ids, self.table_codes)
        if torch.onnx.is_in_onnx_export():
            rows = _dequantize(codes, self.table_scale, self.table_zero_point, axis=codes.dim() - 1)
        else:
            rows = codes.float() * self.table_scale
        return rows if self.column_scale is None else rows * self.column_scale


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
    model: nn.Module,
    quantized: Mapping[str, WeightGrid],
    smoothing: Mapping[str, Tensor],
    shifts: Mapping[str, Tensor],
    *,
    symmetric: bool,
) -> nn.Module:
    for name, module in list(model.named_modules()):
        grid = quantized.get(f"{name}.weight")
        new: nn.Module
        if isinstance(module, nn.Linear):
            new = (
                _FloatLinear(module)
                if grid is None
                else _QuantizedLinear(module, grid, smoothing.get(name), shifts.get(name))
            )
        elif isinstance(module, nn.Embedding) and grid is not None:
            new = _QuantizedEmbedding(module, grid, symmetric=symmetric)
        else:
            continue
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
    return model
