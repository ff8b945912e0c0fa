"""The pass on a graph made by hand: node list before and after, and equal results."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from q8bert.export.graph.passes.fuse_shared_matmuls import FuseSharedMatMulsPass

RNG = np.random.default_rng(0)


def branch(name: str, source: str, size: int, *, per_channel: bool) -> tuple[list[object], list[object]]:
    scale = RNG.uniform(0.01, 0.1, size if per_channel else ()).astype(np.float32)
    constants = {
        f"{name}.weight_codes": RNG.integers(-127, 128, (4, size)).astype(np.int8),
        f"{name}.weight_scale": scale,
        f"{name}.bias": RNG.normal(size=size).astype(np.float32),
    }
    axis = {"axis": 1} if per_channel else {}
    nodes = [
        helper.make_node("DequantizeLinear", list(constants)[:2], [f"{name}_w"], **axis),
        helper.make_node("MatMul", [source, f"{name}_w"], [f"{name}_product"]),
        helper.make_node("Add", [f"{name}_product", f"{name}.bias"], [f"{name}_out"]),
    ]
    return nodes, [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()]


def model(sources: list[str], *, per_channel: bool) -> ir.Model:
    sizes = [3, 5, 2]
    parts = [
        branch(f"layer.{name}", source, size, per_channel=per_channel)
        for name, source, size in zip("qkv", sources, sizes, strict=True)
    ]
    graph = helper.make_graph(
        [node for nodes, _ in parts for node in nodes], "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "seq", 4]) for name in sorted(set(sources))],
        [helper.make_tensor_value_info(f"layer.{name}_out", TensorProto.FLOAT, ["batch", "seq", size]) for name, size in zip("qkv", sizes, strict=True)],
        [tensor for _, tensors in parts for tensor in tensors],
    )  # fmt: skip
    return ir.serde.deserialize_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def operators(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


def outputs(graph: ir.Model) -> list[np.ndarray]:
    session = ort.InferenceSession(
        ir.serde.serialize_model(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(1)
    feed = {value.name: rng.normal(size=(2, 6, 4)).astype(np.float32) for value in session.get_inputs()}
    return session.run(None, feed)


@pytest.mark.parametrize("per_channel", [True, False])
def test_three_products_of_one_activation_become_one(per_channel: bool) -> None:
    graph = model(["x", "x", "x"], per_channel=per_channel)
    assert operators(graph) == ["DequantizeLinear", "MatMul", "Add"] * 3
    before = outputs(graph)
    assert FuseSharedMatMulsPass()(graph).modified
    assert operators(graph) == ["DequantizeLinear", "MatMul", "Add", "Split"]
    for ours, expected in zip(outputs(graph), before, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)
    constants = {
        name: value.const_value.numpy() for name, value in graph.graph.initializers.items() if value.const_value
    }
    assert constants["layer.q+k+v.weight_codes"].shape == (4, 10)
    assert constants["layer.q+k+v.weight_scale"].shape == (10,)
    assert len(constants) == 4  # the old ones are gone


def test_products_of_different_activations_are_left_alone() -> None:
    graph = model(["x", "y", "z"], per_channel=True)
    assert not FuseSharedMatMulsPass()(graph).modified
    assert operators(graph) == ["DequantizeLinear", "MatMul", "Add"] * 3


def with_zero_points(graph: ir.Model) -> None:
    for node in graph.graph:
        if node.op_type == "DequantizeLinear":
            zeros = ir.tensor(np.zeros(node.inputs[1].shape.numpy(), dtype=np.int8))
            node.resize_inputs(3)
            node.replace_input_with(2, ir.Value(name=f"{node.inputs[0].name}_zero_point", const_value=zeros))
            graph.graph.register_initializer(node.inputs[2])


def along_rows(graph: ir.Model) -> None:
    for node in graph.graph:
        if node.op_type == "DequantizeLinear":
            node.attributes.add(ir.AttrInt64("axis", 0))


def of_one_weight(graph: ir.Model) -> None:
    first, *others = [node for node in graph.graph if node.op_type == "MatMul"]
    for node in others:
        node.replace_input_with(1, first.inputs[1])


@pytest.mark.parametrize("change", [with_zero_points, along_rows, of_one_weight])
def test_what_does_not_fit_is_left_as_it_is(change: Callable[[ir.Model], None]) -> None:
    graph = model(["x", "x", "x"], per_channel=True)
    change(graph)
    before = operators(graph)
    assert not FuseSharedMatMulsPass()(graph).modified
    assert operators(graph) == before
