"""Factors of attention's output go into its values, where that changes no bit."""

from typing import Any

import numpy as np
import pytest

from q8bert.export.graph.passes.fold_smoothing import FoldSmoothingPass

RNG = np.random.default_rng(0)
HEADS, HEAD = 2, 3
WIDTH = HEADS * HEAD
CONSTANTS = {
    "v.weight_codes": RNG.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8),
    "v.weight_scale": RNG.uniform(0.01, 0.1, WIDTH).astype(np.float32),
    "v.bias": RNG.normal(size=WIDTH).astype(np.float32),
    "o.smoothing": np.float32(0.5) ** RNG.integers(0, 4, WIDTH).astype(np.float32),
    "split": np.array([0, 0, HEADS, HEAD]), "joined": np.array([0, 0, WIDTH]), "other": np.array([0, 0, HEAD, HEADS]),
}  # fmt: skip
TEXT = """g (float[batch, seq, 6] x, float[batch, 2, seq, seq] p) => (float[batch, seq, 6] y) {
    w = DequantizeLinear<axis = 1>(v__weight_codes, v__weight_scale)
    a = MatMul(x, w)
    v = Add(a, v__bias)
    v4 = Reshape(v, split)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    o = MatMul(p, vt)
    ot = Transpose<perm = [0, 2, 1, 3]>(o)
    j = Reshape(ot, joined)
    m = Mul(j, o__smoothing)
    y = Neg(m)
}"""
INPUTS = {
    "x": RNG.normal(size=(2, 5, WIDTH)).astype(np.float32),
    "p": RNG.uniform(size=(2, HEADS, 5, 5)).astype(np.float32),
}


@pytest.mark.parametrize("is_per_tensor", [False, True])
def test_factors_go_into_the_scales_and_no_bit_changes(written: Any, run: Any, is_per_tensor: bool) -> None:
    text, constants = TEXT, dict(CONSTANTS)
    if is_per_tensor:
        text, constants["v.weight_scale"] = TEXT.replace("<axis = 1>", ""), np.float32([0.03]).reshape(())
    model = written(text, constants)
    (before,) = run(model, INPUTS)
    assert FoldSmoothingPass()(model).modified
    assert "Mul" not in [node.op_type for node in model.graph]
    np.testing.assert_array_equal(run(model, INPUTS)[0], before)
    kept = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    np.testing.assert_array_equal(kept["v.weight_codes"], CONSTANTS["v.weight_codes"])
    np.testing.assert_array_equal(kept["v.weight_scale"], constants["v.weight_scale"] * CONSTANTS["o.smoothing"])
    assert "o.smoothing" not in kept


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("m = Mul(j, o__smoothing)", "k = Gelu(j)\n m = Mul(k, o__smoothing)"),  # not linear
        ("m = Mul(j, o__smoothing)", "k = Mul(j, o__smoothing)\n m = Add(k, j)"),  # read without the factors too
        ("o = MatMul(p, vt)", "n = Neg(vt)\n o = MatMul(p, n)"),
        ("j = Reshape(ot, joined)", "u = Transpose<perm = [0, 1, 3, 2]>(ot)\n j = Reshape(u, joined)"),  # channels in another order
        ("DequantizeLinear<axis = 1>", "DequantizeLinear<axis = 0>"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_left_as_it_is(written: Any, old: str, new: str) -> None:
    model = written(TEXT.replace(old, new), CONSTANTS)
    before = [node.op_type for node in model.graph]
    assert not FoldSmoothingPass()(model).modified
    assert [node.op_type for node in model.graph] == before


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("o.smoothing", np.full(WIDTH, 0.3, dtype=np.float32)),  # no power of two
        ("v.bias", np.full(WIDTH, 1e-45, dtype=np.float32)),  # half of it is no number
    ],
)
def test_what_would_be_rounded_is_left_as_it_is(written: Any, name: str, values: np.ndarray) -> None:
    model = written(
        TEXT,
        CONSTANTS
        | {name: values, "o.smoothing": values if name == "o.smoothing" else np.full(WIDTH, 0.5, dtype=np.float32)},
    )
    assert not FoldSmoothingPass()(model).modified
