"""Where a model's weights lie is found in every place that a tensor can be in, and nothing else is."""

from typing import Any

import pytest

from q8bert.spec.onnx_file import external_files

onnx: Any = pytest.importorskip("onnx")


def tensor(name: str, location: str | None = None) -> Any:
    made = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    if location is not None:
        made.ClearField("float_data")
        made.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "8")):
            made.external_data.add(key=key, value=value)
    return made


def graph(*, nodes: Any = (), initializers: Any = ()) -> Any:
    return onnx.helper.make_graph(list(nodes), "graph", [], [], list(initializers))


def test_weights_are_found_wherever_a_tensor_can_be() -> None:
    constant = onnx.helper.make_node("Constant", [], ["c"], value=tensor("c", "constant.bin"))
    several = onnx.helper.make_node("Custom", [], ["d"], domain="own")
    several.attribute.append(onnx.helper.make_attribute("values", [tensor("v"), tensor("w", "list.bin")]))
    inner = graph(initializers=[tensor("i", "inner.bin")])
    branch = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=graph())
    sparse = onnx.SparseTensorProto(values=tensor("s", "sparse.bin"), indices=tensor("t"), dims=[4])
    model = onnx.helper.make_model(
        graph(nodes=[constant, several, branch], initializers=[tensor("a"), tensor("b", "weights/b.bin")]),
        functions=[onnx.helper.make_function("own", "F", [], ["z"], [
            onnx.helper.make_node("Constant", [], ["z"], value=tensor("z", "function.bin"))
        ], [])],
    )  # fmt: skip
    model.graph.sparse_initializer.append(sparse)
    training = model.training_info.add()
    training.algorithm.CopyFrom(graph(initializers=[tensor("e", "training.bin")]))
    model.metadata_props.add(key="location", value="no file")
    assert external_files(model.SerializeToString()) == {
        "constant.bin", "list.bin", "inner.bin", "sparse.bin", "weights/b.bin", "function.bin", "training.bin",
    }  # fmt: skip


def test_a_model_that_holds_its_weights_names_no_file(small: Any) -> None:
    for precision in ("int8", "float32"):
        assert external_files((small.bundle("SST-2", precision) / "model.onnx").read_bytes()) == frozenset()


@pytest.mark.parametrize("content", [b"not a model", b"\x3a\xff\x01", b"\x3a", b"\xff" * 20, b"\x3b"])
def test_what_is_no_protobuf_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="it is "):
        external_files(content)


def test_graphs_within_graphs_end() -> None:
    content = b""
    for _ in range(500):  # an attribute with a graph with a node with it
        for number in (6, 5, 1) if content else (5, 1):
            length = len(content)
            digits = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
            content = bytes([number << 3 | 2]) + digits + content
    whole = (
        bytes([7 << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7 & 0x7F | 0x80, len(content) >> 14]) + content
    )
    with pytest.raises(ValueError, match="without end"):
        external_files(whole)
