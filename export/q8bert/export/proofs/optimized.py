"""What ONNX Runtime makes of a model before it runs it on the CPU, to be looked at."""

import tempfile
from pathlib import Path

import onnx

from q8bert.machine.onnx_runtime import ort
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.session_options import session_options

__all__ = ["CPU_ONLY", "optimized_graph"]

CPU_ONLY = ["CPUExecutionProvider"]


def optimized_graph(model: onnx.ModelProto, *, threads: int = 0) -> onnx.ModelProto:
    """Let ONNX Runtime optimize a model for the CPU provider, and read back the graph.

    Args:
        model: As exported.
        threads: CPU threads; 0 for the cores that this process may use.

    Returns:
        The optimized graph; run without optimization, it computes what the model does.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = session_options(RuntimeOptions(threads=threads))
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model.SerializeToString(), options, providers=CPU_ONLY)
        return onnx.load(path)
