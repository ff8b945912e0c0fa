"""What no reader takes is not computed, and outputs stay what they were."""

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from q8bert.export.graph.passes.keep_first_token import KeepFirstTokenPass

RNG = np.random.default_rng(0)
WIDTH, HEADS = 4, 2
CONSTANTS = {
    **{f"w{number}": RNG.normal(size=(WIDTH, WIDTH)).astype(np.float32) for number in (1, 2, 3, 4)},
    "bias": RNG.normal(size=WIDTH).astype(np.float32),
    "first": np.array(0), "second": np.array(1), "first_of_one": np.array([0]),
    "split": np.array([0, 0, HEADS, WIDTH // HEADS]), "joined": np.array([0, 0, WIDTH]), "axis": np.array([1]),
    "gamma": np.ones(WIDTH, dtype=np.float32),
}  # fmt: skip
IN_OUT = "g (float[batch, seq, 4] x) => (float[batch, 4] y)"
ROWS = {"x": RNG.normal(size=(2, 5, WIDTH)).astype(np.float32)}

READS_THE_FIRST = f"""{IN_OUT} {{
    a = MatMul(x, w1)
    b = Add(a, bias)
    c = Gelu(b)
    d = LayerNormalization(c, gamma, bias)
    e = MatMul(d, w2)
    y = Gather<axis = 1>(e, first)
}}"""
ATTENTION = f"""{IN_OUT} {{
    q = MatMul(x, w1)
    k = MatMul(x, w2)
    v = MatMul(x, w3)
    q4 = Reshape(q, split)
    k4 = Reshape(k, split)
    v4 = Reshape(v, split)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    s = MatMul(qt, kt)
    p = Softmax<axis = -1>(s)
    o = MatMul(p, vt)
    ot = Transpose<perm = [0, 2, 1, 3]>(o)
    j = Reshape(ot, joined)
    z = MatMul(j, w4)
    r = Add(z, x)
    y = Gather<axis = 1>(r, first)
}}"""


def narrow(model: ir.Model) -> bool:
    return bool(KeepFirstTokenPass()(model).modified)


def test_rows_that_nobody_reads_are_not_computed(written: Any, run: Any, shapes: Any) -> None:
    model = written(READS_THE_FIRST, CONSTANTS)
    (before,) = run(model, ROWS)
    assert narrow(model)
    sizes = shapes(model)
    assert {name: sizes[name] for name in "abcde"} == {name: ["batch", 1, WIDTH] for name in "abcde"}
    np.testing.assert_array_equal(run(model, ROWS)[0], before)
    assert Counter(node.op_type for node in model.graph)["Gather"] == 2


def test_of_attention_the_query_is_narrowed_and_keys_and_values_are_not(written: Any, run: Any, shapes: Any) -> None:
    model = written(ATTENTION, CONSTANTS)
    (before,) = run(model, ROWS)
    assert narrow(model)
    sizes = shapes(model)
    assert {name for name, shape in sizes.items() if "seq" not in shape} >= {"q", "q4", "qt", "o", "ot", "j", "z", "r"}
    assert sizes["s"] == sizes["p"] == ["batch", HEADS, 1, "seq"]
    assert sizes["k"] == sizes["v"] == ["batch", "seq", WIDTH]
    np.testing.assert_allclose(
        run(model, ROWS)[0], before, rtol=1e-6, atol=1e-6
    )  # of a row alone sums may be ordered otherwise
    assert (
        Counter(node.op_type for node in model.graph)["Gather"] == 2
    )  # x, for the query and for the sum; and the last


@pytest.mark.parametrize(
    "end",
    [
        "y = Gather<axis = 1>(e, second)",
        "f = Gather<axis = 1>(e, first)\n m = ReduceMean<keepdims = 0>(e, axis)\n y = Add(f, m)",
        "f = Transpose<perm = [0, 2, 1]>(e)\n g2 = MatMul(e, f)\n h = MatMul(g2, e)\n i = MatMul(g2, h)\n "
        "k = ReduceMean<keepdims = 0>(i, axis)\n y = Add(k, k)",
    ],
)  # fmt: skip
def test_what_is_read_otherwise_is_computed_whole(written: Any, end: str) -> None:
    model = written(READS_THE_FIRST.replace("y = Gather<axis = 1>(e, first)", end), CONSTANTS)
    before = [node.op_type for node in model.graph]
    assert not narrow(model)
    assert [node.op_type for node in model.graph] == before


def test_what_is_needed_whole_elsewhere_is_cut_for_the_reader_alone(written: Any, run: Any, shapes: Any) -> None:
    text = READS_THE_FIRST.replace(
        "y = Gather", "f = Gather"
    ).replace("(e, first)", "(e, first)\n m = ReduceMean<keepdims = 0>(c, axis)\n y = Add(f, m)")  # fmt: skip
    model = written(text, CONSTANTS)
    (before,) = run(model, ROWS)
    assert narrow(model)
    sizes = shapes(model)
    assert sizes["c"] == ["batch", "seq", WIDTH]
    assert sizes["d"] == sizes["e"] == ["batch", 1, WIDTH]
    np.testing.assert_array_equal(run(model, ROWS)[0], before)


def test_a_product_of_a_value_with_itself_needs_it_whole(written: Any, run: Any) -> None:
    square = f"""{IN_OUT} {{
        a = Transpose<perm = [0, 2, 1]>(x)
        b = MatMul(x, a)
        c = MatMul(b, b)
        d = MatMul(c, x)
        y = Gather<axis = 1>(d, first)
    }}"""
    model = written(square, CONSTANTS)
    (before,) = run(model, ROWS)
    assert narrow(model)  # the last product, and no other
    assert Counter(node.op_type for node in model.graph)["Gather"] == 2
    np.testing.assert_allclose(run(model, ROWS)[0], before, rtol=1e-5)


def test_an_axis_of_a_fixed_size_is_none_of_tokens(written: Any) -> None:
    model = written(READS_THE_FIRST.replace("float[batch, seq, 4] x", "float[batch, 5, 4] x"), CONSTANTS)
    assert not narrow(model)


def test_an_output_of_the_graph_stays_whole(written: Any) -> None:
    text = READS_THE_FIRST.replace("(float[batch, 4] y)", "(float[batch, 4] y, float[batch, seq, 4] e)")
    assert not narrow(written(text, CONSTANTS))


def test_the_bias_of_all_pairs_of_tokens_is_cut(written: Any, run: Any, shapes: Any) -> None:
    text = ATTENTION.replace("x) =>", "x, float[batch, 2, seq, seq] b) =>").replace(
        "p = Softmax<axis = -1>(s)", "t = Add(s, b)\n p = Softmax<axis = -1>(t)"
    )
    model = written(text, CONSTANTS)
    rows = ROWS | {"b": RNG.normal(size=(2, HEADS, 5, 5)).astype(np.float32)}
    (before,) = run(model, rows)
    assert narrow(model)
    assert shapes(model)["t"] == ["batch", HEADS, 1, "seq"]
    np.testing.assert_allclose(run(model, rows)[0], before, rtol=1e-6, atol=1e-6)


def test_softmax_over_the_tokens_themselves_is_computed_whole(written: Any) -> None:
    text = f"{IN_OUT} {{ a = Softmax<axis = 1>(x)\n y = Gather<axis = 1>(a, first) }}"
    assert not narrow(written(text, CONSTANTS))


def test_a_quantized_activation_has_a_second_pair_with_constants_of_its_own(
    written: Any, run: Any, shapes: Any
) -> None:
    quantized = """
        c0 = QuantizeLinear(x, site__quantize_scale, site__quantize_zero_point)
        x0 = DequantizeLinear(c0, site__dequantize_scale, site__dequantize_zero_point)
        q = MatMul(x0, w1)"""
    text = (
        ATTENTION.replace("q = MatMul(x, w1)", quantized).replace("(x, w2)", "(x0, w2)").replace("(x, w3)", "(x0, w3)")
    )
    pair = {
        f"site.{half}_{what}": value
        for half in ("quantize", "dequantize")
        for what, value in (("scale", np.float32(0.03)), ("zero_point", np.int8(-4)))
    }
    model = written(text, CONSTANTS | {name: np.asarray(value) for name, value in pair.items()})
    (before,) = run(model, ROWS)
    assert narrow(model)
    np.testing.assert_allclose(run(model, ROWS)[0], before, rtol=1e-6, atol=1e-6)
    counts = Counter(node.op_type for node in model.graph)
    assert counts["QuantizeLinear"] == counts["DequantizeLinear"] == 2
    constants = model.graph.initializers
    for name, value in pair.items():
        copied = constants[name.replace("site.", "site.first_token.")].const_value
        assert copied is not None
        assert (copied.numpy(), copied.numpy().dtype) == (value, np.asarray(value).dtype)
    for node in model.graph:
        if node.op_type == "MatMul" and node.inputs[1].name in {"w1", "w2", "w3"}:
            assert len(node.inputs[0].uses()) == (1 if node.inputs[1].name == "w1" else 2)
