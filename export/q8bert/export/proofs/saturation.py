"""Proof that no product of the exported graph can saturate, and what that took.

See :mod:`q8bert.spec.saturation` for the fault and for the scales that keep it away. How they compare with other cures
is what ``tools/saturation_trade.py`` prints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx
import torch
from onnx import numpy_helper

from q8bert.spec.errors import ExportError
from q8bert.spec.saturation import MAX_PAIR_SUM, count_unsafe_pairs
from q8bert.training.quantization.fake_quantize import WeightGrid, quantize_weight
from q8bert.training.quantization.weights import TrainableWeights

__all__ = ["SaturationReport", "prove_saturation_free", "what_it_took"]


@dataclass(frozen=True)
class SaturationReport:
    """Pairs of weights that could overflow 16 bits on CPUs without VNNI, before and after the cure.

    Attributes:
        n_matrices: Weight matrices.
        n_pairs: Pairs of neighbouring weights along the axis that is summed over.
        n_unsafe_before: Pairs that could overflow if scales were those of the largest elements alone.
        n_unsafe: Pairs of the exported graph that can; 0.
        mean_scale_growth: Mean factor by which the scales were made larger for it.
        max_scale_growth: Largest such factor.
    """

    n_matrices: int
    n_pairs: int
    n_unsafe_before: int
    n_unsafe: int
    mean_scale_growth: float
    max_scale_growth: float


def what_it_took(weights: TrainableWeights) -> SaturationReport:
    """Compare the grids of the exported weights with those of their largest elements alone.

    Args:
        weights: On saturation-free grids.

    Returns:
        The comparison.
    """
    n_pairs = n_before = n_after = 0
    growths = []
    grids: Mapping[str, WeightGrid] = {name: grid for name, grid in weights.quantized.items() if grid.saturation_free}
    for name, grid in grids.items():
        codes, scale = quantize_weight(weights.smoothed(name), grid)
        plain_codes, plain_scale = quantize_weight(weights.smoothed(name), replace(grid, saturation_free=False))
        n_pairs += codes.shape[0] * (codes.shape[1] // 2)
        n_before += count_unsafe_pairs(plain_codes.t().numpy())
        n_after += count_unsafe_pairs(codes.t().numpy())
        growths.append((scale / plain_scale).flatten())
    growth = torch.cat(growths) if growths else torch.ones(1)
    return SaturationReport(
        n_matrices=len(grids),
        n_pairs=n_pairs,
        n_unsafe_before=n_before,
        n_unsafe=n_after,
        mean_scale_growth=float(growth.mean()),
        max_scale_growth=float(growth.max()),
    )


def prove_saturation_free(graph: onnx.ModelProto) -> int:
    """Check every weight of every MatMul, as it stands in the graph.

    Args:
        graph: The exported graph.

    Returns:
        How many matrices that is true of.

    Raises:
        ExportError: If a pair of weights could overflow for some activation.
    """
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    dequantized = {
        node.output[0]: constants[node.input[0]]
        for node in graph.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    n_proven = 0
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            weight = dequantized.get(name)
            if weight is None:
                continue
            if (node.op_type, place) != ("MatMul", 1):
                raise ExportError(f"{weight.name} feeds {node.op_type}; only second factors of MatMul can be proven")
            if n_unsafe := count_unsafe_pairs(numpy_helper.to_array(weight)):
                raise ExportError(
                    f"{n_unsafe} pairs of {weight.name} add up to more than {MAX_PAIR_SUM}: their products can "
                    "overflow on CPUs without VNNI"
                )
            n_proven += 1
    return n_proven
