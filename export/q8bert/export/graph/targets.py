"""Other forms of an exported graph, for runtimes that make little of quantized ones.

``cuda``     products of integers, written out, which ONNX Runtime's CUDA provider has a kernel for: the same codes
``float16``  the same weights in half precision, activations not rounded
"""

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as ir_passes

from q8bert.export.graph.passes.dequantize import DequantizePass
from q8bert.export.graph.passes.integer_products import IntegerProductsPass
from q8bert.spec.bundle.targets import CUDA_TARGET, FLOAT16_TARGET
from q8bert.spec.errors import ExportError

# isort: off
from q8bert.machine.onnx_runtime import ort  # noqa: F401 - it has to be the first to import ONNX Runtime
from onnxruntime.transformers.float16 import convert_float_to_float16
# isort: on

__all__ = ["graph_for"]


def graph_for(target: str, graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return another form of a graph.

    Args:
        target: ``cuda`` or ``float16``.
        graph: As exported; it is not changed.

    Returns:
        A graph with the same inputs and output.

    Raises:
        ExportError: If the graph has no such form.
    """
    made = _rewritten(graph, IntegerProductsPass() if target == CUDA_TARGET else DequantizePass())
    left = sorted({node.op_type for node in made.graph.node} & {"DequantizeLinear"})
    if left or (target == CUDA_TARGET and not any(node.op_type == "MatMulInteger" for node in made.graph.node)):
        raise ExportError(
            f"target {target}: " + ("not every quantized value has such a form" if left else "the graph is not INT8")
            + ". Leave the target out"
        )  # fmt: skip
    if target == FLOAT16_TARGET:
        # values beyond half precision, such as what hides padding, become its largest
        made = convert_float_to_float16(made, keep_io_types=True)
    onnx.checker.check_model(made, full_check=True)
    return made


def _rewritten(graph: onnx.ModelProto, rewrite: IntegerProductsPass | DequantizePass) -> onnx.ModelProto:
    inferred = onnx.shape_inference.infer_shapes(graph, data_prop=True)  # the passes ask for ranks
    model = ir.serde.deserialize_model(inferred)
    for graph_pass in (
        rewrite,
        ir_passes.RemoveUnusedNodesPass(),
        ir_passes.CommonSubexpressionEliminationPass(),
        ir_passes.TopologicalSortPass(),
    ):
        graph_pass(model)
    proto: onnx.ModelProto = ir.serde.serialize_model(model)
    for node in proto.graph.node:
        node.name = ""
    del proto.graph.value_info[:]
    return proto
