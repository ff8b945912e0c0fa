"""Graphs made by hand: written as text, with the shapes that an exporter gives, and run by ONNX Runtime."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser, shape_inference

Arrays = Mapping[str, np.ndarray]


@pytest.fixture(scope="session")
def written() -> Callable[[str, Arrays], ir.Model]:
    """Return a model: a graph in ONNX's text form, where ``__`` is a dot in a name, and its constants by name."""

    def make(text: str, constants: Arrays) -> ir.Model:
        proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
        for node in proto.graph.node:
            node.input[:] = [name.replace("__", ".") for name in node.input]
        proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        return ir.serde.deserialize_model(shape_inference.infer_shapes(proto, data_prop=True))

    return make


@pytest.fixture(scope="session")
def run() -> Callable[[ir.Model, Arrays], list[np.ndarray]]:
    """Run a model as it is, nothing optimized."""

    def outputs(model: ir.Model, inputs: Arrays) -> list[np.ndarray]:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        content = ir.serde.serialize_model(model).SerializeToString()
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, dict(inputs))

    return outputs


@pytest.fixture(scope="session")
def shapes() -> Callable[[ir.Model], dict[str, list[int | str]]]:
    """Return the shapes of all values, as ONNX infers them anew."""

    def inferred(model: ir.Model) -> dict[str, list[int | str]]:
        proto = ir.serde.serialize_model(model)
        del proto.graph.value_info[:]
        found: onnx.ModelProto = shape_inference.infer_shapes(proto, data_prop=True)
        return {
            value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in (*found.graph.value_info, *found.graph.output)
        }

    return inferred
