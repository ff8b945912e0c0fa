"""Which nodes of a program ONNX Runtime gives to the GPU, and which it leaves to the CPU."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["nodes_by_provider", "operators_of", "products_in"]

# what multiplies matrices, or stands around where that is done in integers
_PRODUCTS = (
    "MatMul", "FusedMatMul", "Gemm", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm",
    "DynamicQuantizeMatMul", "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip


def nodes_by_provider(program: bytes, providers: list[Any]) -> dict[str, Counter[str]] | None:
    """Load a program and ask which provider each node was given to.

    Args:
        program: Serialized ONNX model.
        providers: As ``InferenceSession`` takes them.

    Returns:
        Provider → number of nodes by type of operator; None where this release of ONNX Runtime does not tell.
    """
    import onnxruntime as ort

    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        return None
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as the engine runs it
    session = ort.InferenceSession(program, options, providers=providers)
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return found


def products_in(model: Path, folder: Path, providers: list[Any]) -> Mapping[str, int]:
    """Return how often each operator of matrix products stands in a model as ONNX Runtime optimized it."""
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(str(model), options, providers=providers)
    kinds = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    return {kind: kinds[kind] for kind in _PRODUCTS if kinds[kind]}


def operators_of(counts: Mapping[str, int]) -> str:
    """Return counts of operators in words, the most frequent first."""
    return ", ".join(f"{kind} {n}" for kind, n in Counter(counts).most_common()) or "none"
