"""Quantize a float ONNX file after training, with ONNX Runtime's own tools: what `bench_inference.py` compares with.

``ort_dynamic.onnx``           `quantize_dynamic` with its defaults: INT8 weights, one scale a tensor
``ort_dynamic_tuned.onnx``     as its guide advises for transformers: graph optimizer first, a scale a channel
``ort_static.onnx``            `quantize_static` with its defaults, QDQ, MinMax ranges of random rows
``ort_static_tuned.onnx``      the same, only products and tables, a scale a channel, uint8 activations
``ort_matmul_nbits.onnx``      weights of 8 bits in blocks of 32 (``MatMulNBits``), activations quantized at run time

Reads ``float32/model.onnx`` of a folder and writes into the folder. Runs in an environment with the newest onnxruntime,
onnx and sympy. What cannot be made is named in ``baselines.json`` with the reason.

    python tools/make_bench_baselines.py build/bench/minilm-l6-SST-2-0
"""

import argparse
import importlib
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers import optimizer

N_ROWS = 32
LENGTH = 128


class RandomRows(CalibrationDataReader):  # type: ignore[misc]
    """Hands out batches of random tokens.

    Args:
        model: The file that is calibrated; it names its inputs.
        seed: Seed of the tokens.
    """

    def __init__(self, model: Path, *, seed: int) -> None:
        names = [value.name for value in onnx.load(str(model), load_external_data=False).graph.input]
        draw = np.random.default_rng(seed)
        batches = []
        for _ in range(N_ROWS // 8):
            shape = (8, LENGTH)
            arrays = {
                "input_ids": draw.integers(1000, 30000, shape), "attention_mask": np.ones(shape, dtype=np.int64),
                "token_type_ids": np.zeros(shape, dtype=np.int64),
            }  # fmt: skip
            batches.append({name: arrays[name] for name in names})
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, or None after the last."""
        return next(self._batches, None)


def dynamic(source: Path, target: Path) -> None:
    """Quantize weights; ranges of activations are found at run time."""
    quantize_dynamic(source, target, weight_type=QuantType.QInt8)


def dynamic_tuned(source: Path, target: Path, *, n_heads: int) -> None:
    """Fuse what the transformer optimizer knows, then quantize with a scale a channel."""
    with tempfile.TemporaryDirectory() as folder:
        fused = Path(folder) / "fused.onnx"
        # hidden_size 0 is read from the graph
        optimizer.optimize_model(
            str(source), model_type="bert", num_heads=n_heads, hidden_size=0, opt_level=0
        ).save_model_to_file(str(fused))
        options = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # of the fused operators' results
        quantize_dynamic(fused, target, weight_type=QuantType.QInt8, per_channel=True, extra_options=options)


def static(
    source: Path, target: Path, *, seed: int, activation_type: QuantType = QuantType.QInt8, **options: Any
) -> None:
    """Quantize weights and activations, whose ranges are the extremes on some rows."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # which does not get through this graph
        quantize_static(
            prepared, target, RandomRows(source, seed=seed), quant_format=QuantFormat.QDQ,
            activation_type=activation_type, weight_type=QuantType.QInt8, **options,
        )  # fmt: skip


def matmul_nbits(source: Path, target: Path) -> None:
    """Quantize weights in blocks, with activations in INT8 (accuracy level 4)."""
    quantizer: Any = importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    config = quantizer.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4, bits=8)
    made = quantizer.MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    made.process()
    made.model.save_model_to_file(str(target))


def main() -> None:
    """Make the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="as `make_bench_model.py` made it")
    parser.add_argument("--heads", type=int, default=12, help="attention heads of the model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    makers: dict[str, Callable[[Path, Path], None]] = {
        "ort_dynamic": dynamic,
        "ort_dynamic_tuned": partial(dynamic_tuned, n_heads=args.heads),
        "ort_static": partial(static, seed=args.seed),
        "ort_static_tuned": partial(
            static,
            seed=args.seed,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            activation_type=QuantType.QUInt8,  # with int8 most products stay in float
        ),
        "ort_matmul_nbits": matmul_nbits,
    }
    reasons = {}
    for name, make in makers.items():
        try:
            make(args.folder / "float32" / "model.onnx", args.folder / f"{name}.onnx")
        except Exception as error:  # noqa: BLE001 - a peer that fails is reported, and the others still run
            reasons[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    (args.folder / "baselines.json").write_text(json.dumps(reasons) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
