"""What it is worth that ONNX Runtime's threads spin while they wait, and for how long: wall and CPU time of batches.

``off`` threads sleep, ``20`` and so on spin for so many microseconds and then sleep, ``default`` leaves ONNX Runtime
its own way. Each is several processes, for a process may fall into a state in which threads spin and share no work, and
stay in it. Ways take turns, process by process. Prints, for each shape, the median over processes of a call's
milliseconds, the worst process, and the median of CPU milliseconds.

    python tools/bench_spinning.py build/bench/minilm-l6-SST-2-0/int8/model.onnx --threads 2 --processes 8
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from q8bert.machine.onnx_runtime import ort

WAYS = ("default", "off", "20", "100", "1000")
SHAPES = ((1, 32), (8, 32), (32, 16), (16, 128))
_TOKENS_A_SHAPE = 12_000


def measure(model: Path, way: str, *, threads: int, seed: int) -> dict[str, tuple[float, float]]:
    """Return wall and CPU milliseconds of a call for each shape, in this process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if way == "off":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    elif way != "default":
        options.add_session_config_entry("session.intra_op.spin_duration_us", way)
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    draw, found = np.random.default_rng(seed), {}
    for shape in SHAPES:
        batch = {
            "input_ids": draw.integers(1000, 30000, shape), "attention_mask": np.ones(shape, dtype=np.int64),
            "token_type_ids": np.zeros(shape, dtype=np.int64),
        }  # fmt: skip
        inputs = {value.name: batch[value.name] for value in session.get_inputs()}
        n_calls = max(4, _TOKENS_A_SHAPE // (shape[0] * shape[1]))
        for _ in range(3):
            session.run(None, inputs)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(n_calls):
            session.run(None, inputs)
        times = (1e3 * (time.perf_counter() - wall) / n_calls, 1e3 * (time.process_time() - cpu) / n_calls)
        found[f"{shape[0]}x{shape[1]}"] = times
    return found


def main() -> None:
    """Measure all ways in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--processes", type=int, default=8, help="of each way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=WAYS, help="measure one way in this process, and print JSON")
    args = parser.parse_args()
    if args.only is not None:
        print(json.dumps(measure(args.model, args.only, threads=args.threads, seed=args.seed)))
        return
    times: dict[str, dict[str, list[tuple[float, float]]]] = {way: defaultdict(list) for way in WAYS}
    for number in range(args.processes):
        for way in WAYS:
            print(f"process {number + 1} of {args.processes}: {way}", end="\033[K\r", file=sys.stderr)
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--only", way], check=True, stdout=subprocess.PIPE
            )
            for shape, pair in json.loads(done.stdout).items():
                times[way][shape].append(pair)
    print(f"{'spin, us':10s}" + "".join(f"{f'{a}x{b}: p50, worst, CPU':>28s}" for a, b in SHAPES))
    for way, shapes in times.items():
        cells = []
        for pairs in shapes.values():
            walls, cpus = zip(*pairs, strict=True)
            cells.append(f"{statistics.median(walls):.2f}, {max(walls):.2f}, {statistics.median(cpus):.2f}")
        print(f"{way:10s}" + "".join(f"{cell:>28s}" for cell in cells))
    print(f"{args.threads} threads, {args.processes} processes each, onnxruntime {ort.__version__}, seed {args.seed}")


if __name__ == "__main__":
    main()
