"""Time the exported graph without zero points, with them, and in its symmetric form, on ONNX Runtime and OpenVINO.

The model and its grids are those of ``tools/grid_errors.py``. All three have the same smoothing, and take turns.

    python tools/bench_symmetric.py GLUE/STS-B --task STS-B --threads 2
"""

import importlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from grid_errors import Model, parse, ways

from q8bert.export.graph.build import build_graph
from q8bert.export.proofs.fusion import examine_fusion
from q8bert.runtime.engines.session import Session
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import quantized_parameters

SHAPES, N_RUNS = ((16, 128), (1, 32)), 30


def graphs(model: Model) -> dict[str, bytes]:
    """Return the three graphs by name."""
    shifted = ways(model)["both"]
    plain = tuple(replace(site, zero_point=0) for site in shifted)
    print(f"{sum(bool(site.zero_point) for site in shifted)} of {len(shifted)} activations have a zero point")
    return {
        "no zero points": _graph(model, plain, symmetric=False),
        "zero points": _graph(model, shifted, symmetric=False),
        "symmetric form": _graph(model, shifted, symmetric=True),
    }


def _graph(model: Model, sites: tuple[Site, ...], *, symmetric: bool) -> bytes:
    checkpoint = model.run.checkpoint
    graph = build_graph(
        model.module, sites, model.amax(sites), quantized_parameters(model.module, per_channel=True),
        input_names=checkpoint.input_names, target_scale=checkpoint.target_scale, symmetric=symmetric,
    )  # fmt: skip
    fusion = examine_fusion(graph)
    print(f"{fusion.n_integer} products in integers, {fusion.n_float} in float (ONNX Runtime {fusion.onnxruntime})")
    content: bytes = graph.SerializeToString()
    return content


def contenders(name: str, graph: bytes, threads: int) -> dict[str, Callable[[dict[str, np.ndarray]], object]]:
    """Return what runs a graph; OpenVINO where it is installed."""
    found: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
        f"{name}, ONNX Runtime {ort.__version__}": Session(graph, threads=threads).run
    }
    try:
        openvino = importlib.import_module("q8bert.machine.openvino_runtime").openvino
    except ImportError:
        return found
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(graph)
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(path), "CPU", options)
    return found | {f"{name}, OpenVINO {openvino.__version__.partition('-')[0]}": compiled}


def main() -> None:
    """Print the table."""
    args, model = parse()
    runs: dict[str, Callable[[dict[str, np.ndarray]], object]] = {}
    for name, graph in graphs(model).items():
        runs |= contenders(name, graph, args.threads)
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        ids = rng.integers(1000, 30000, shape)
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        inputs = {name: values[name] for name in model.run.checkpoint.input_names}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(N_RUNS + 3):
            for name, run in runs.items():
                started = time.perf_counter()
                run(inputs)
                seconds[name].append(time.perf_counter() - started)
        print(f"\n| {shape[0]} × {shape[1]} | milliseconds, least | median |\n|---|---|---|")
        for name, taken in seconds.items():
            print(f"| {name} | {1e3 * min(taken[3:]):.2f} | {1e3 * float(np.median(taken[3:])):.2f} |", flush=True)


if __name__ == "__main__":
    main()
