"""Precision is counted in what a session ran, and is unknown where nobody could look."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from q8bert.runtime import Classifier, RuntimeOptions
from q8bert.runtime.engines.kernels import KernelWatch, Products, count_products, nodes_on_the_cpu
from q8bert.runtime.engines.precision import precision_note
from q8bert.runtime.engines.providers.table import facts_of
from q8bert.runtime.engines.session import Session

CPU = "CPUExecutionProvider"
INPUTS = {
    name: np.array([[2, 5, 3]], dtype=np.int64) * (name == "input_ids") + (name == "attention_mask")
    for name in ("input_ids", "attention_mask", "token_type_ids")
}


def event(
    op: str, *shapes: list[int], provider: str = CPU, number: int = 0, type_: str = "float", output: str = "float"
) -> dict[str, Any]:
    about = {
        "op_name": op, "provider": provider, "node_index": str(number),
        "input_type_shape": [{type_: shape} for shape in shapes], "output_type_shape": [{output: [1]}],
    }  # fmt: skip
    return {"cat": "Node", "name": f"{op}_{number}_kernel_time", "args": about}


@pytest.mark.parametrize(
    ("events", "counted"),
    [
        ([], None),
        ([event("Add", [1, 3, 8], [8])], None),
        ([event("MatMulIntegerToFloat", [1, 3, 8], [], [24])], Products(1, 0)),
        # weights that were packed are no longer among the inputs
        ([event("MatMul", [1, 3, 8])], Products(0, 1)),
        ([event("MatMul", [1, 3, 8], [8, 24])], Products(0, 1)),
        ([event("Gemm", [1, 8], [8, 2], [2])], Products(0, 1)),
        # attention: two factors for each head
        ([event("MatMul", [1, 4, 3, 2], [1, 4, 2, 3]), event("QGemm", [1, 8], [8, 2])], Products(1, 0)),
        # two runs of one node are one product, two nodes are two
        ([event("MatMul", [1, 3, 8]), event("MatMul", [1, 9, 8])], Products(0, 1)),
        ([event("MatMul", [1, 3, 8]), event("MatMul", [1, 3, 8], number=1)], Products(0, 2)),
        # what a provider compiled cannot be seen
        ([event("MatMulIntegerToFloat", [1, 3, 8]), event("TRTKernel", provider="TensorrtExecutionProvider")], None),
        ([event("MatMul", [1, 3, 8], provider="CUDAExecutionProvider")], Products(0, 1)),
        ([event("MatMul", [1, 3, 8], type_="float16")], Products(0, 1, "float16")),
        ([{"cat": "Session", "name": "model_run", "args": {}}, event("MatMul", [1, 3, 8])], Products(0, 1)),
    ],
)
def test_products_with_weights_are_counted(events: list[dict[str, Any]], counted: Products | None) -> None:
    assert count_products(events) == counted


def test_on_the_cpu_shapes_may_be_worked_on_and_nothing_else() -> None:
    cuda = "CUDAExecutionProvider"
    events = [
        event("Shape", [1, 3], output="int64"), event("Concat", [1], [1], type_="int64", output="int64"),
        event("Cast", [3], type_="int64", output="bool"), event("MatMul", [1, 3, 8], provider=cuda),
        event("Cast", [3], type_="int64", number=1), event("Gather", [8, 4], type_="int8", number=2, output="int8"),
        event("Gather", [8, 4], type_="int8", number=2, output="int8"),
    ]  # fmt: skip
    assert nodes_on_the_cpu(events) == ("Cast Cast_1", "Gather Gather_2")
    assert nodes_on_the_cpu([]) == ()


@pytest.mark.parametrize(
    ("products", "text"),
    [
        (Products(26, 0), "int8 (26 of 26 products)"),
        (Products(0, 26), "float32 (0 of 26 products)"),
        (Products(0, 26, "bfloat16"), "bfloat16 (0 of 26 products)"),
        (Products(24, 2), "mixed (24 of 26 products)"),
    ],
)
def test_counts_are_said(products: Products, text: str) -> None:
    assert str(products) == text


def test_a_note_says_what_to_do() -> None:
    def note(products: Products | None, provider: str) -> str:
        place = f"{provider}, ONNX Runtime 1.2.3"
        engine: Any = SimpleNamespace(products=products, place=place, float_note=facts_of(provider).float_note)
        return precision_note(engine, bundle_precision="int8")

    assert "'extended' and 'all'" in note(Products(0, 26), CPU)
    note_on_cuda = note(Products(0, 26), "CUDAExecutionProvider")
    assert "--target float16, the fastest there, or with --target cuda" in note_on_cuda
    assert note(Products(26, 0), CPU) == f"26 of 26 products with weights run in integers ({CPU}, ONNX Runtime 1.2.3)."
    assert "SomeExecutionProvider, ONNX Runtime" in note(None, "SomeExecutionProvider")


def test_a_session_that_is_watched_computes_the_same_and_leaves_nothing_behind(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = small.bundle("SST-2", "int8") / "model.onnx"
    with KernelWatch() as watch:
        session = Session(model, threads=1, watch=watch)
        logits = session.run(INPUTS)
        assert session.products is None, "nobody has looked yet"
        session.end_watch(watch)
    assert session.products == Products(11, 0)
    np.testing.assert_array_equal(logits, Session(model, threads=1).run(INPUTS))
    np.testing.assert_array_equal(session.run(INPUTS), logits)
    assert list(tmp_path.iterdir()) == []


def test_precision_is_unknown_where_no_temporary_file_can_be_made(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    classifier = Classifier.load(small.bundle("SST-2", "int8"), threads=1)
    assert (classifier.precision, classifier.products) == ("unknown", None)
    assert "not known" in classifier.precision_note
    assert classifier(["good"])[0].label == "positive"


def test_a_cached_model_is_counted_too(small: Any, tmp_path: Path) -> None:
    options = RuntimeOptions(threads=1, cache_dir=tmp_path)
    for _ in range(2):
        assert Classifier.load(small.bundle("SST-2", "int8"), options=options).products == Products(11, 0)
