"""What it is worth that torch's threads spin while they wait, and for how long: alone, and beside other work.

``default`` leaves GNU OpenMP its own way, ``passive`` has threads sleep at once, a number is ``GOMP_SPINCOUNT``. Each
is several processes that take turns; a process computes encoder layers of MiniLM's size on 32 × 32 tokens. ``beside``
is how many processes with one thread each compute the same meanwhile. Prints the median over processes of a batch's
milliseconds, the worst process, and the median of CPU milliseconds.

    python tools/bench_openmp.py --threads 2 --beside 0 2
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

import torch

WAYS = ("default", "1000", "10000", "passive")
_FOREVER = 3600.0


def measure(threads: int, seconds: float, seed: int) -> tuple[float, float]:
    """Return wall and CPU milliseconds of a batch, in this process."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    layers = [torch.nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True).eval() for _ in range(6)]
    batch, n_batches = torch.randn(32, 32, 384), 0
    with torch.no_grad():
        for warm in (True, False):
            wall, cpu = time.perf_counter(), time.process_time()
            while time.perf_counter() - wall < (0.5 if warm else seconds):
                x = batch
                for layer in layers:
                    x = layer(x)
                n_batches += not warm
    return 1e3 * (time.perf_counter() - wall) / n_batches, 1e3 * (time.process_time() - cpu) / n_batches


def environment(way: str) -> dict[str, str]:
    """Return the environment of a process that waits in a way."""
    kept = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    chosen = {"default": {}, "passive": {"OMP_WAIT_POLICY": "passive"}}
    return {**kept, **chosen.get(way, {"GOMP_SPINCOUNT": way})}


def worker(threads: int, seconds: float, seed: int) -> list[str]:
    """Return the command of a process that measures itself."""
    numbers = ["--threads", str(threads), "--seconds", str(seconds), "--seed", str(seed)]
    return [sys.executable, __file__, "--worker", *numbers]


def main() -> None:
    """Measure all ways in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--beside", type=int, nargs="+", default=[0, os.cpu_count() or 1])
    parser.add_argument("--processes", type=int, default=5, help="of each way")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true", help="measure this process, and print JSON")
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.threads, args.seconds, args.seed)))
        return
    print(f"{'beside':8s}" + "".join(f"{f'{way}: p50, worst, CPU':>30s}" for way in WAYS))
    for n_beside in args.beside:
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        with ExitStack() as stack:
            for _ in range(n_beside):
                other = stack.enter_context(
                    subprocess.Popen(worker(1, _FOREVER, args.seed), env=environment("default"))
                )
                stack.callback(other.kill)
            for _ in range(args.processes):
                for way in WAYS:
                    command = worker(args.threads, args.seconds, args.seed)
                    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment(way))
                    times[way].append(json.loads(done.stdout))
        cells = []
        for pairs in times.values():
            walls, cpus = zip(*pairs, strict=True)
            cells.append(f"{statistics.median(walls):.0f}, {max(walls):.0f}, {statistics.median(cpus):.0f}")
        print(f"{n_beside:<8d}" + "".join(f"{cell:>30s}" for cell in cells), flush=True)
    print(f"{args.threads} threads, {args.processes} processes each, torch {torch.__version__}, seed {args.seed}")


if __name__ == "__main__":
    main()
