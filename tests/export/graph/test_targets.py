"""Other forms of a graph: the same codes or the same weights, in operators that the CUDA provider has kernels for."""

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, shape_inference

from q8bert.export.graph.targets import graph_for
from q8bert.spec.errors import ExportError

FAMILIES = ("bert", "roberta", "electra", "mpnet", "distilbert")
each_family = pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "bert" else pytest.mark.slow) for name in FAMILIES]
)

FLOATS, WHOLE = {"FLOAT", "FLOAT16", "DOUBLE"}, {"INT32", "INT64"}
ANY = FLOATS | WHOLE | {"INT8", "UINT8", "BOOL"}
# What the CUDA provider has kernels for at opset 20, by the type of the first input: docs/OperatorKernels.md of ONNX
# Runtime, section CUDAExecutionProvider. Types that no graph of ours has are left out.
CUDA_KERNELS = {
    "Add": FLOATS | WHOLE, "Sub": FLOATS | WHOLE, "Mul": FLOATS | WHOLE, "Div": FLOATS | WHOLE, "Min": FLOATS | WHOLE,
    "Abs": FLOATS | WHOLE, "Neg": FLOATS | WHOLE, "Log": FLOATS, "Tanh": FLOATS, "Relu": FLOATS, "Erf": FLOATS,
    "Gelu": FLOATS, "Softmax": FLOATS, "LayerNormalization": FLOATS, "MatMul": FLOATS, "MatMulInteger": {"INT8"},
    "QuantizeLinear": FLOATS - {"DOUBLE"}, "Cast": ANY, "Gather": ANY, "Slice": ANY, "Split": ANY, "Reshape": ANY,
    "Squeeze": ANY, "Unsqueeze": ANY, "Transpose": ANY, "Expand": ANY, "Concat": ANY, "Shape": ANY, "Identity": ANY,
    "Range": FLOATS - {"FLOAT16"} | WHOLE, "CumSum": FLOATS | WHOLE, "Equal": FLOATS | WHOLE | {"BOOL"},
    "Less": FLOATS | WHOLE, "Not": {"BOOL"}, "Where": {"BOOL"},
}  # fmt: skip


def typed(graph: onnx.ModelProto) -> dict[str, str]:
    """Return the element type of every value."""
    inferred = shape_inference.infer_shapes(graph, data_prop=True).graph
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in (*inferred.input, *inferred.value_info)}
    return {name: onnx.TensorProto.DataType.Name(kind) for name, kind in types.items()}


def constants(graph: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


@each_family
@pytest.mark.parametrize("target", ["cuda", "float16"])
def test_every_node_has_a_kernel_of_the_cuda_provider(family: str, target: str, export_random: Any) -> None:
    graph = graph_for(target, export_random(family, per_channel=True).graph)
    types = typed(graph)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 20)]
    for node in graph.graph.node:
        assert types[node.input[0]] in CUDA_KERNELS[node.op_type], node


@each_family
@pytest.mark.parametrize("per_channel", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_products_of_integers_have_the_same_codes_and_logits(
    family: str, per_channel: bool, export_random: Any, run_graph: Any
) -> None:
    exported = export_random(family, per_channel=per_channel)
    graph = graph_for("cuda", exported.graph)
    counts = Counter(node.op_type for node in graph.graph.node)
    assert counts["MatMulInteger"] == counts["QuantizeLinear"] == len(exported.sites) + 1
    assert counts["MatMul"] == 2 * 2  # attention's own products
    assert not counts["DequantizeLinear"]
    # the scale of a product is rounded once, as in ONNX Runtime's own fused kernel
    found, expected = (run_graph(one, exported.batch.inputs) for one in (graph, exported.graph))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_weights_are_the_same_codes_and_scales_are_those_of_both_factors(bert: Any) -> None:
    graph = graph_for("cuda", bert.graph)
    before, after = bert.initializers(), constants(graph)
    name = "bert.encoder.layer.0.output.dense"
    np.testing.assert_array_equal(after[f"{name}.weight_codes"], before[f"{name}.weight_codes"])
    np.testing.assert_array_equal(
        after[f"{name}.product_scale"], before[f"{name}.weight_scale"] * before[f"{name}.input.quantize_scale"]
    )
    products = {node.input[1]: node for node in graph.graph.node if node.op_type == "MatMulInteger"}
    (site,) = (site for site in bert.sites if site.linears == (name,))
    assert after[products[f"{name}.weight_codes"].input[2]] == site.zero_point


@each_family
def test_half_precision_has_the_weights_of_the_codes(family: str, export_random: Any, run_graph: Any) -> None:
    exported = export_random(family, per_channel=True)
    graph = graph_for("float16", exported.graph)
    assert not {"QuantizeLinear", "DequantizeLinear", "MatMulInteger"} & {node.op_type for node in graph.graph.node}
    assert {array.dtype for array in constants(graph).values() if array.ndim == 2} <= {np.dtype("f2"), np.dtype("i8")}
    logits = run_graph(graph, exported.batch.inputs)
    assert logits.dtype == np.float32
    # the oracle has the same weights in float32, and no rounding of activations
    oracle = onnx.ModelProto()
    oracle.CopyFrom(exported.graph)
    for node in oracle.graph.node:
        if node.op_type == "QuantizeLinear":
            node.op_type, node.input[:] = "Identity", node.input[:1]
    quantized = {node.output[0] for node in oracle.graph.node if node.op_type == "Identity"}
    for node in oracle.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized:
            node.op_type, node.input[:] = "Identity", node.input[:1]
            del node.attribute[:]
    # as it stands, for ONNX Runtime would quantize activations before weights in integers on its own account
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(oracle.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {name: tensor.numpy() for name, tensor in exported.batch.inputs.items()})[0]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-2)


def test_a_float_graph_has_half_precision_and_no_integers(bert: Any, run_graph: Any) -> None:
    half = graph_for("float16", bert.float_graph)
    found, expected = (run_graph(one, bert.batch.inputs) for one in (half, bert.float_graph))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2)
    assert len(half.SerializeToString()) < 0.6 * len(bert.float_graph.SerializeToString())
    with pytest.raises(ExportError, match="target cuda: the graph is not INT8"):
        graph_for("cuda", bert.float_graph)


def test_the_given_graph_is_not_changed(bert: Any) -> None:
    before = bert.graph.SerializeToString(deterministic=True)
    for target in ("cuda", "float16"):
        graph_for(target, bert.graph)
    assert bert.graph.SerializeToString(deterministic=True) == before
