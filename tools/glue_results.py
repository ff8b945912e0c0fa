"""Train, export and verify on GLUE, and keep every result: the numbers of the README's table.

For each task, engine and seed it trains the float twin and the INT8 model, exports both, quantizes the float one in one
shot, and exports it with ONNX Runtime's post-training quantization, dynamic and static; then it runs `q8bert verify`
and `evaluate` with the command of another environment, the torch-free one. Everything goes through the command line,
as a user would do it.
Results are kept after each pair, so an interrupted campaign goes on where it stopped; at the end it prints the table.

    python tools/glue_results.py --glue-dir GLUE --serve .venv/serve/bin/q8bert --tasks STS-B --engines ort torch
    python tools/glue_results.py --glue-dir GLUE --serve .venv/serve/bin/q8bert --tasks RTE --seeds 11 12 13
    python tools/glue_results.py --glue-dir GLUE --serve .venv/serve/bin/q8bert --train-options --dropout 0
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from q8bert.spec.files import write_json
from q8bert.tasks.glue import GLUE_TASKS

AFTER_TRAINING = ("one-shot", "dynamic", "static")
COLUMNS = (
    "task",
    "engine",
    "seed",
    "options",
    "metric",
    "float32",
    "INT8",
    "relative loss",
    "size ratio",
    "one-shot",
    "dynamic",
    "static",
    "simulation − exported",
    "rows differing: free, resolved",
    "train CPU minutes",
)


def call(command: list[str], *, ok: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a q8bert command with ``--json`` and return its object."""
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in ok:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def pair(task: str, engine: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train, export and verify one pair of twins."""
    q8bert = str(Path(sys.executable).with_name("q8bert"))
    data = str(args.glue_dir / task)
    folder = args.work_dir / "-".join([task, engine, f"seed{seed}", *args.train_options]).replace("/", "_")
    result: dict[str, Any] = {"task": task, "engine": engine, "seed": seed, "options": args.train_options}
    for precision, flag in (("float32", "--no-quantize"), ("int8", "--quantize")):
        started, cpu = time.monotonic(), os.times().children_user
        run, bundle = str(folder / f"{precision}-run"), str(folder / precision)
        options = [
            "--task",
            task,
            "--data-dir",
            data,
            "--engine",
            engine,
            "--seed",
            str(seed),
            flag,
            *args.train_options,
        ]
        result[f"{precision}_run"] = call([q8bert, "train", "--output-dir", run, *options])
        result[f"{precision}_minutes"] = (time.monotonic() - started) / 60
        result[f"{precision}_cpu_minutes"] = (os.times().children_user - cpu) / 60
        result[f"{precision}_export"] = call([q8bert, "export", run, "--output-dir", bundle, "--parity-rows", "0"])
        result[f"{precision}_evaluation"] = call([args.serve, "evaluate", bundle, "--data-dir", data])
    for method in AFTER_TRAINING:
        bundle, run = str(folder / method), str(folder / "float32-run")
        if method == "one-shot":
            call([q8bert, "quantize", run, "--output-dir", bundle, "--seed", str(seed)], ok=(0, 1))
        else:
            call([q8bert, "export", run, "--output-dir", bundle, "--quantization", method])
        result[f"{method}_evaluation"] = call([args.serve, "evaluate", bundle, "--data-dir", data])
    result["verify"] = call(
        [
            args.serve,
            "verify",
            str(folder / "int8"),
            "--reference",
            str(folder / "float32"),
            "--data-dir",
            data,
        ],
        ok=(0, 1),
    )
    return result


def row(result: dict[str, Any]) -> list[str]:
    """Return one line of the table."""
    gate = result["verify"]
    metric = gate["main_metric"]
    parity = result["int8_export"]["parity"]
    gap = 100 * (parity["free"]["metrics"][metric] - result["int8_evaluation"]["metrics"][metric])
    after_training = [
        f"{100 * result[f'{method}_evaluation']['metrics'][metric]:.2f}" if f"{method}_evaluation" in result else ""
        for method in AFTER_TRAINING  # a campaign of an earlier release has not all of them
    ]
    return [
        result["task"], result["engine"], str(result["seed"]), " ".join(result["options"]), metric,
        f"{100 * gate['reference_metrics'][metric]:.2f}",
        f"{100 * gate['metrics'][metric]:.2f}", f"{gate['relative_loss']:.2%}", f"{gate['size_ratio']:.2f}",
        *after_training, f"{gap:+.3f}",
        f"{parity['free']['n_rows_differing']}, {parity['resolved']['n_rows_differing']} of {parity['n_rows']}",
        f"{result['float32_cpu_minutes']:.1f} + {result['int8_cpu_minutes']:.1f}",
    ]  # fmt: skip


def main() -> None:
    """Run the campaign and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue-dir", type=Path, required=True, help="folder with one folder a task")
    parser.add_argument("--serve", required=True, help="q8bert command of the torch-free environment")
    parser.add_argument("--tasks", nargs="+", default=["STS-B", "RTE", "MRPC", "CoLA"], choices=list(GLUE_TASKS))
    parser.add_argument("--engines", nargs="+", default=["ort"], choices=["ort", "torch"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11])
    parser.add_argument("--train-options", nargs=argparse.REMAINDER, default=[], help="passed on to `q8bert train`")
    parser.add_argument("--work-dir", type=Path, default=Path("build/glue"))
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    kept = args.work_dir / "results.json"
    results = json.loads(kept.read_text())["results"] if kept.exists() else {}
    for task, engine, seed in itertools.product(args.tasks, args.engines, args.seeds):
        name = " ".join([f"{task}-{engine}-seed{seed}", *args.train_options])
        if name not in results:
            results[name] = pair(task, engine, seed, args)
            write_json(kept, {"machine": platform.platform(), "cpus": os.cpu_count(), "results": results})
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row(result) for result in results.values())]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
