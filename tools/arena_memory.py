"""What ONNX Runtime's memory arena costs and saves: memory and time of batches of random sizes, with it and without.

Each in a process of its own, one thread. Prints resident memory after loading, after all batches and at its peak.

    python tools/make_bench_model.py build/bench-model
    python tools/arena_memory.py build/bench-model/int8
"""

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

WORDS = ["good", "bad", "film", "plot"]


def megabytes(field: str) -> int:
    """Return what the system says of this process's memory: ``VmRSS`` is resident now, ``VmHWM`` was at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{field}:")[1].split()[0]) // 1024


def measure(bundle: Path, *, arena: bool, n_batches: int, seed: int) -> None:
    """Run batches of random sizes in this process and print."""
    from q8bert.runtime import Classifier, RuntimeOptions

    classifier = Classifier.load(bundle, options=RuntimeOptions(threads=1, memory_arena=arena))
    loaded, rng, started = megabytes("VmRSS"), random.Random(seed), time.perf_counter()
    for _ in range(n_batches):
        n_rows, n_words = rng.choice([1, 4, 16, 32]), rng.randint(1, 120)
        classifier([" ".join(rng.choices(WORDS, k=n_words)) for _ in range(n_rows)])
    seconds = time.perf_counter() - started
    print(
        f"arena {'on' if arena else 'off'}: loaded {loaded} MB, after {n_batches} batches {megabytes('VmRSS')} MB, "
        f"peak {megabytes('VmHWM')} MB, {seconds:.1f} s"
    )


def main() -> None:
    """Measure both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["on", "off"])
    args = parser.parse_args()
    if args.only is not None:
        measure(args.bundle, arena=args.only == "on", n_batches=args.batches, seed=args.seed)
        return
    for choice in ("on", "off"):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", choice], check=True)


if __name__ == "__main__":
    main()
