"""What ONNX Runtime makes of the exported graph on the CPU: which weight products are integer products.

QDQ nodes only say where numbers are rounded; whether a product then runs in integers is up to ONNX Runtime's optimizer,
which leaves a product in float without a word when it does not know the pattern. So the optimized graph is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from q8bert.export.proofs.optimized import optimized_graph
from q8bert.machine.onnx_runtime import ort

__all__ = ["FusionReport", "examine_fusion"]

_FLOAT_PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm"})
_INTEGER_PRODUCTS = frozenset({
    "MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm",
})  # fmt: skip


@dataclass(frozen=True)
class FusionReport:
    """Products with a constant weight in the graph that ONNX Runtime really runs.

    Attributes:
        onnxruntime: Its version.
        n_integer: Products of integers.
        n_float: Products of floats.
        float_products: Names of the weights, or of the nodes, of the latter.
    """

    onnxruntime: str
    n_integer: int
    n_float: int
    float_products: tuple[str, ...]


def examine_fusion(model: onnx.ModelProto) -> FusionReport:
    """Let ONNX Runtime optimize a model for the CPU provider and count.

    Args:
        model: As exported.

    Returns:
        The counts.
    """
    optimized = optimized_graph(model)
    constants = {tensor.name for tensor in optimized.graph.initializer}
    for node in optimized.graph.node:  # in topological order
        if node.input and node.op_type in {"DequantizeLinear", "Transpose", "Cast"} and node.input[0] in constants:
            constants.update(node.output)
    products = [node for node in optimized.graph.node if constants & set(_factors(node.op_type, node.input))]
    floats = [node for node in products if node.op_type in _FLOAT_PRODUCTS]
    return FusionReport(
        onnxruntime=ort.__version__,
        n_integer=sum(node.op_type in _INTEGER_PRODUCTS for node in products),
        n_float=len(floats),
        float_products=tuple(next(name for name in node.input if name in constants) for node in floats),
    )


def _factors(op_type: str, inputs: Sequence[str]) -> list[str]:
    if op_type in _FLOAT_PRODUCTS or op_type in {"MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul"}:
        return list(inputs[:2])
    # QLinearMatMul and QGemm: a, its scale, its zero point, b
    return [inputs[0], inputs[3]] if op_type in _INTEGER_PRODUCTS else []
