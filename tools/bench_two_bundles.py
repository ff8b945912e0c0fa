"""Time two bundles of one model in turns, for example of two releases: CPU time of a call, logits, size.

CPU seconds are of all threads of this process, which is what a busy machine disturbs least. Rows are random tokens.

    python tools/bench_two_bundles.py bundles/before bundles/after --engine onnxruntime --threads 1
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from q8bert.runtime.engines.choice import watched_engine
from q8bert.runtime.engines.engine import ENGINES, ONNX_RUNTIME, Engine
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.spec.bundle.bundle import MODEL_FILE, Bundle, load_bundle
from q8bert.text.batching import model_inputs
from q8bert.text.encoded import Encoded, Rows

SHAPES = ("1x32", "1x128", "16x128")
_TOKENS_A_TURN = 1024


def load(path: Path, engine: str, threads: int) -> tuple[Bundle, Engine]:
    """Return a bundle and its model, loaded without a warm-up."""
    bundle, contents = load_bundle(path)
    options = RuntimeOptions(threads=threads)
    with watched_engine(
        engine, contents[MODEL_FILE], weights={}, name=str(path), providers=(CPU_PROVIDER,), options=options
    ) as loaded:
        loaded.run(inputs(bundle, 1, 4, seed=0))
    return bundle, loaded


def inputs(bundle: Bundle, batch: int, length: int, *, seed: int) -> dict[str, Any]:
    """Return random rows of a length."""
    vocabulary = json.loads(bundle.tokenizer_path.read_text(encoding="utf-8"))["model"]["vocab"]
    ids = np.random.default_rng(seed).integers(len(vocabulary) // 30, len(vocabulary), (batch, length))
    rows = Rows.of(list(ids))
    encoded = Encoded(rows, Rows(np.zeros_like(rows.flat), rows.starts))
    manifest = bundle.manifest
    return model_inputs(encoded, np.arange(batch), manifest.input_names, pad_token_id=manifest.pad_token_id)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--engine", choices=ENGINES, default=ONNX_RUNTIME)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    loaded = {
        name: load(path, args.engine, args.threads) for name, path in (("before", args.before), ("after", args.after))
    }
    for name, (bundle, engine) in loaded.items():
        print(f"{name}: {bundle.path}, {bundle.model_size_bytes:,} bytes, {engine.products}, {engine.place}")
    print("\n| rows × tokens | CPU ms before: median, least | after | before / after | difference of logits |")
    print("|---|---|---|---|---|")
    for shape in args.shapes:
        batch, length = map(int, shape.split("x"))
        rows = inputs(loaded["before"][0], batch, length, seed=args.seed)
        n_calls = max(1, _TOKENS_A_TURN // (batch * length))
        taken: dict[str, list[float]] = {name: [] for name in loaded}
        logits: dict[str, Any] = {}
        for number in range(args.rounds + 1):
            for name in list(loaded) if number % 2 else reversed(loaded):
                started = time.process_time()
                for _ in range(n_calls):
                    logits[name] = loaded[name][1].run(rows)
                if number:  # the first round warms up
                    taken[name].append(1e3 * (time.process_time() - started) / n_calls)
        cells = [f"{np.median(taken[name]):.2f}, {min(taken[name]):.2f}" for name in loaded]
        ratio = np.median(taken["before"]) / np.median(taken["after"])
        difference = np.abs(logits["before"] - logits["after"]).max()
        print(f"| {batch} × {length} | {' | '.join(cells)} | {ratio:.3f} | {difference:.2g} |", flush=True)


if __name__ == "__main__":
    main()
