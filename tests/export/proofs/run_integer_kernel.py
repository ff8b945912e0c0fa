"""Runs in a process of its own, perhaps emulated: integer products and a whole model on ONNX Runtime.

Reads ``in.npz``, ``names.json`` and ``model.onnx`` of a folder, writes ``out.npz``.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper


def session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def multiply(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [helper.make_tensor("w", TensorProto.INT8, w.shape, w.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return session(model.SerializeToString()).run(None, {"a": a})[0]


folder = Path(sys.argv[1])
given = np.load(folder / "in.npz")
found = {name: multiply(given["activations"][:, : len(given[name])], given[name]) for name in ("plain", "cured")}
inputs = {name: given[name] for name in json.loads((folder / "names.json").read_text())}
logits = session((folder / "model.onnx").read_bytes()).run(None, inputs)[0]
np.savez(folder / "out.npz", logits=logits, **found)
