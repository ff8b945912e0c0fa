"""Targets of Reshape become constants that mean the same for every size."""

from typing import Any

import numpy as np
import pytest

from q8bert.export.graph.passes.constant_shapes import ConstantShapesPass

RNG = np.random.default_rng(0)
CONSTANTS = {
    "left": np.array([-1]), "heads": np.array([2]), "width": np.array([6]), "zero": np.array([0]),
    "end": np.array([2**63 - 1]), "one": np.array([1]), "two": np.array([2]), "three": np.array([3]),
}  # fmt: skip
TO_HEADS_AND_BACK = """g (float[batch, seq, 6] x) => (float[batch, seq, 6] y) {
    batch_size = Shape<start = 0, end = 1>(x)
    length = Shape<start = 1, end = 2>(x)
    to_heads = Concat<axis = 0>(batch_size, length, heads, left)
    a = Reshape<allowzero = 1>(x, to_heads)
    b = Identity(a)
    back = Concat<axis = 0>(batch_size, length, width)
    y = Reshape<allowzero = 1>(b, back)
}"""


def targets(model: Any) -> list[list[int] | None]:
    return [
        None if node.inputs[1].const_value is None else node.inputs[1].const_value.numpy().tolist()
        for node in model.graph
        if node.op_type == "Reshape"
    ]


def with_known_shapes(model: Any) -> Any:
    import onnx_ir as ir

    # an exporter knows them; ONNX's own inference does not see through Concat
    for node in model.graph:
        if node.op_type in {"Reshape", "Identity"}:
            last = [2, 3] if node.outputs[0].name in {"a", "b"} else [6]
            node.outputs[0].shape = ir.Shape(["batch", "seq", *last])
    return model


def test_sizes_of_the_input_are_copied_and_nothing_is_computed(written: Any, run: Any) -> None:
    model = with_known_shapes(written(TO_HEADS_AND_BACK, CONSTANTS))
    assert ConstantShapesPass()(model).modified
    assert targets(model) == [[0, 0, 2, 3], [0, 0, 6]]
    for shape in ((1, 2, 6), (3, 7, 6)):
        x = RNG.normal(size=shape).astype(np.float32)
        np.testing.assert_array_equal(run(model, {"x": x})[0], x)
    assert not ConstantShapesPass()(model).modified


def test_one_size_that_is_not_copied_is_whatever_is_left(written: Any, run: Any) -> None:
    text = """g (float[batch, seq, 6] x) => (float[rows, 6] y) {
        size = Shape(x)
        n = ReduceProd<keepdims = 1>(size)
        rows = Div(n, width)
        target = Concat<axis = 0>(rows, width)
        y = Reshape(x, target)
    }"""
    model = written(text, CONSTANTS)
    assert ConstantShapesPass()(model).modified
    assert targets(model) == [[-1, 6]]
    x = RNG.normal(size=(2, 3, 6)).astype(np.float32)
    np.testing.assert_array_equal(run(model, {"x": x})[0], x.reshape(6, 6))


def test_two_sizes_that_are_not_copied_stay_computed(written: Any) -> None:
    text = """g (float[batch, seq, 6] x) => (float[seq, batch, 6] y) {
        batch_size = Shape<start = 0, end = 1>(x)
        length = Shape<start = 1, end = 2>(x)
        target = Concat<axis = 0>(length, batch_size, width)
        y = Reshape(x, target)
    }"""
    model = written(text, CONSTANTS)
    assert not ConstantShapesPass()(model).modified
    assert targets(model) == [None]


@pytest.mark.parametrize(
    ("bounds", "is_all"),
    [
        ("zero, end, one", True), ("zero, end, one, one", True), ("zero, end", True), ("one, end, one", False),
        ("zero, three, one", False), ("zero, end, one, two", False),
    ],
)  # fmt: skip
def test_slices_of_everything_go_and_others_stay(written: Any, bounds: str, is_all: bool) -> None:
    model = written(
        f"g (float[batch, seq, 6] x) => (float[a, b, c] y) {{ s = Slice(x, {bounds})\n y = Neg(s) }}", CONSTANTS
    )
    assert ConstantShapesPass()(model).modified is is_all
    assert [node.op_type for node in model.graph] == ["Neg"] if is_all else ["Slice", "Neg"]
