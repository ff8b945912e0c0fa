"""A graph whose axes another program fixed: ONNX Runtime then leaves its products in float, and that is seen."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from q8bert.runtime.engines.kernels import KernelWatch, Products
from q8bert.runtime.engines.session import Session

NAMES = ("input_ids", "attention_mask", "token_type_ids")


def test_products_that_fixed_axes_leave_in_float_are_counted_as_such(small: Any, tmp_path: Path) -> None:
    model = onnx.load(small.bundle("SST-2", "int8") / "model.onnx")
    for value in [*model.graph.input, *model.graph.output]:
        for dimension, size in zip(value.type.tensor_type.shape.dim, (1, 32), strict=False):
            if dimension.dim_param:
                dimension.dim_value = size
    content = model.SerializeToString()
    with KernelWatch() as watch:
        session = Session(content, threads=1, watch=watch)
        session.run({name: np.ones((1, 32), dtype=np.int64) for name in NAMES})
        session.end_watch(watch)
    # the oracle is the graph that ONNX Runtime writes of what it made of the model
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    n_integer = kinds.count("MatMulIntegerToFloat")
    assert session.products == Products(n_integer, 11 - n_integer)
    assert str(session.products) == f"{session.products.precision} ({n_integer} of 11 products)"
