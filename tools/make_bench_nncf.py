"""Quantize a float ONNX file with NNCF for OpenVINO, after training: what `bench_inference.py` compares with.

With the preset that NNCF has for transformers, and ranges of random rows, as the other baselines have. Reads
``float32/model.onnx`` of a folder and writes ``nncf.xml``. Runs in an environment with nncf, openvino and q8bert.

    python tools/make_bench_nncf.py build/bench/minilm-l6-SST-2-0
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np

N_ROWS, LENGTH = 32, 128


def main() -> None:
    """Make the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="as `make_bench_model.py` made it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    openvino: Any = importlib.import_module("q8bert.machine.openvino_runtime").openvino
    nncf: Any = importlib.import_module("nncf")
    model = openvino.Core().read_model(args.folder / "float32" / "model.onnx")
    names = [value.any_name for value in model.inputs]
    draw = np.random.default_rng(args.seed)
    rows = []
    for _ in range(N_ROWS):
        shape = (1, LENGTH)
        arrays = {
            "input_ids": draw.integers(1000, 30000, shape), "attention_mask": np.ones(shape, dtype=np.int64),
            "token_type_ids": np.zeros(shape, dtype=np.int64),
        }  # fmt: skip
        rows.append({name: arrays[name] for name in names})
    quantized = nncf.quantize(
        model, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER, subset_size=N_ROWS,
        preset=nncf.QuantizationPreset.MIXED,
    )  # fmt: skip
    openvino.save_model(quantized, args.folder / "nncf.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
