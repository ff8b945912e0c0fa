"""Trained weights and ranges → the inference graph.

Standard ONNX operators only, opset 20 (the first with ``Gelu`` as one operator) and IR version
10 (the newest that ONNX Runtime 1.19.2 reads), dynamic batch and sequence axes.
"""

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as ir_passes
from onnxscript import optimizer
from torch import Tensor, nn

from q8bert.export.graph.inference_model import InferenceModel
from q8bert.export.graph.passes.constant_shapes import ConstantShapesPass
from q8bert.export.graph.passes.fold_smoothing import FoldSmoothingPass
from q8bert.export.graph.passes.fuse_shared_matmuls import FuseSharedMatMulsPass
from q8bert.export.graph.passes.keep_first_token import KeepFirstTokenPass
from q8bert.spec.errors import ExportError
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale
from q8bert.training.programs.onnx_program import to_onnx
from q8bert.training.quantization.fake_quantize import WeightGrid
from q8bert.training.quantization.quantized_model import smoothing_name
from q8bert.training.quantization.sites import Site

__all__ = ["OPSET", "build_graph"]

OPSET = 20
_MAX_BYTES = 2**31 - 2**24  # protobuf's limit, less room for the nodes
_QUANTIZED_PREFIX, _CLASSIFIER_PREFIX = "_quantized.", "model."


def build_graph(
    model: nn.Module,
    sites: Sequence[Site],
    amax: Tensor,
    quantized: Mapping[str, WeightGrid],
    *,
    input_names: Sequence[str],
    target_scale: TargetScale = UNSCALED,
    symmetric: bool = False,
) -> onnx.ModelProto:
    """Export a trained classifier.

    Args:
        model: Float classifier with the trained weights.
        sites: Where activations are quantized; empty for a float graph.
        amax: Float32 ``(n_sites,)``, learned ranges.
        quantized: Names of quantized weights → their grid; empty for a float graph.
        input_names: Inputs of the graph, int64 ``(batch, seq)`` each.
        target_scale: Between scores and what the classifier computes.
        symmetric: Whether zero points and scales of tables take the form for runtimes that know neither; see
            :mod:`~q8bert.export.graph.inference_model`.

    Returns:
        The graph, with the one output ``logits``, float32 ``(batch, n_outputs)``, scores in the user's units.

    Raises:
        ExportError: If the graph is not valid ONNX or holds anything but standard operators.
    """
    module = InferenceModel(model, sites, amax, quantized, target_scale, symmetric=symmetric).eval()
    graph = to_onnx(
        module,
        {name: torch.ones(2, 4, dtype=torch.int64) for name in input_names},
        dynamic_axes={name: {0: "batch", 1: "seq"} for name in input_names},
        output_names=["logits"],
        opset=OPSET,
    )
    optimizer.fold_constants(graph)
    _name_initializers(graph, sites)
    for graph_pass in (
        ir_passes.IdentityEliminationPass(),
        ir_passes.CommonSubexpressionEliminationPass(),
        ir_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        ConstantShapesPass(),
        FoldSmoothingPass(),
        KeepFirstTokenPass(),
        FuseSharedMatMulsPass(),
        ir_passes.RemoveUnusedNodesPass(),
        ir_passes.RemoveUnusedOpsetsPass(),
        ir_passes.ClearMetadataAndDocStringPass(),
        ir_passes.TopologicalSortPass(),
    ):
        graph_pass(graph)
    return _checked(graph)


def _name_initializers(graph: ir.Model, sites: Sequence[Site]) -> None:
    """Give constants the names that the layers have in Hugging Face's model, and those of a site its name."""
    smoothing = {smoothing_name(index): f"{site.name}.smoothing" for index, site in enumerate(sites)}
    for name in list(graph.graph.initializers):
        own_name = name.removeprefix(_QUANTIZED_PREFIX)
        new_name = smoothing.get(own_name, own_name.removeprefix(_CLASSIFIER_PREFIX))
        if name.startswith("pairs."):
            _, index, what = name.split(".")
            new_name = f"{sites[int(index)].name}.{what}"
        if new_name != name:
            value = graph.graph.initializers.pop(name)
            value.name = new_name
            graph.graph.register_initializer(value)


def _checked(graph: ir.Model) -> onnx.ModelProto:
    foreign = sorted({node.op_type for node in graph.graph if node.domain not in {"", "ai.onnx"}})
    if foreign:
        raise ExportError(f"the graph holds operators outside standard ONNX: {', '.join(foreign)}")
    tensors = (value.const_value for value in graph.graph.initializers.values())
    n_bytes = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    if n_bytes > _MAX_BYTES:
        raise ExportError(
            f"the model's weights take {n_bytes / 2**30:.1f} GiB, and one ONNX file holds 2 GiB at most. A float32 "
            "model of more than 500 million parameters cannot be exported; in INT8 it can have four times as many"
        )
    proto = ir.serde.serialize_model(graph)
    for node in proto.graph.node:
        node.name = ""
    del proto.graph.value_info[:]
    proto.producer_name, proto.producer_version = "q8bert", ""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    return proto
