"""Post-training quantization by ONNX Runtime's own tools: what quantization-aware training is compared with.

- ``dynamic``: weights and tables INT8; the range of every activation is found anew in every run.
- ``static``: weights, tables and activations INT8, as QDQ; ranges are the extremes seen on training rows.

Both start from the float graph of a ``--no-quantize`` run, with the settings that serve them best: products with
weights and tables only, weights by channel, and uint8 activations in the static graph, for with int8 ones ONNX Runtime
leaves 24 of MiniLM's 38 products in float.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

# isort: off
from q8bert.machine.onnx_runtime import ort  # noqa: F401 - it has to be the first to import ONNX Runtime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
# isort: on

__all__ = ["quantize_after_training_dynamic", "quantize_after_training_static"]

_OPERATORS = ["MatMul", "Gemm", "Gather"]

Inputs = Mapping[str, NDArray[np.int64]]


def quantize_after_training_dynamic(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Quantize the weights of a float graph.

    Args:
        graph: Float graph.

    Returns:
        INT8 graph, activations quantized at run time.
    """
    with _in_files(graph) as (source, target):
        quantize_dynamic(source, target, op_types_to_quantize=_OPERATORS, per_channel=True, weight_type=QuantType.QInt8)
        return onnx.load(target)


def quantize_after_training_static(graph: onnx.ModelProto, batches: Iterable[Inputs]) -> onnx.ModelProto:
    """Quantize weights and activations of a float graph.

    Args:
        graph: Float graph.
        batches: Inputs of the graph, from training rows, on which the ranges are observed.

    Returns:
        INT8 graph with QDQ pairs.
    """
    with _in_files(graph) as (source, target):
        quantize_static(
            source,
            target,
            _Batches(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(target)


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Hands batches to ONNX Runtime one by one."""

    def __init__(self, batches: Iterable[Inputs]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Inputs | None:
        return next(self._batches, None)


@contextmanager
def _in_files(graph: onnx.ModelProto) -> Iterator[tuple[Path, Path]]:
    # ONNX Runtime's tools work on files; they advise a preparation that export has already done, on every call
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "float.onnx"
            onnx.save_model(graph, str(source))
            yield source, Path(folder) / "int8.onnx"
    finally:
        logging.disable(before)
