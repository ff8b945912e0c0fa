"""Time one optimizer step, and real epochs, of several ways to train the same model.

``ort_qat``     quantization-aware, ONNX Runtime engine
``ort_float``   the FP32 twin, and the float half of a quantized run, on the same engine
``torch_qat``   quantization-aware, eager torch engine
``torch_bf16``  the same, matrix products in bfloat16, where the CPU has it in hardware
``torch_fp32``  plain Hugging Face and torch: no q8bert in it
``before``      quantization-aware, ONNX Runtime engine of another checkout (``--before``)

Each runs in a process of its own, on the same batches; the parent lets them take turns, one step each, so that they
meet the same noise of a shared machine. A step is forward, backward, clipping, AdamW and, for the first two,
requantizing the weights. CPU seconds are of all threads of the process; ratios are of minima.

    python tools/bench_training.py --sizes minilm-l6 bert-base
    python tools/bench_training.py --data-dir GLUE/STS-B --task STS-B    # and real batches: by length, padded to 128
    python tools/bench_training.py --variants                            # and the ONNX Runtime engine in other ways
    python tools/bench_training.py --before ../old                       # and the engine of a checkout with .venv/train
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
from bench_machine import machine
from bench_training_worker import SIZES, VARIANTS

CONTENDERS = ("ort_qat", "ort_float", "torch_qat", "torch_bf16", "torch_fp32")
ROOT = Path(__file__).resolve().parents[1]
# `serve` of any checkout, in a process of that checkout's own environment
_CHILD = """
import sys
from multiprocessing.connection import Client
sys.path.insert(0, sys.argv[1])
from bench_training_worker import serve
serve(Client(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
"""


@dataclass(frozen=True)
class Times:
    """What some steps of one contender took."""

    wall_min: float
    wall_median: float
    cpu_min: float
    cpu_median: float
    peak_memory_mb: float


class Field:
    """The contenders in their processes.

    Args:
        size: One of ``SIZES``.
        kinds: Who takes part.
        threads: CPU threads of each.
        before: Checkout whose ONNX Runtime engine takes part as ``before``.
    """

    def __init__(self, size: str, kinds: tuple[str, ...], threads: int, before: Path | None = None) -> None:
        self._pipes: dict[str, Connection] = {}
        self._processes = []
        for kind in (*kinds, *(["before"] if before else [])):
            checkout = ROOT if kind != "before" or before is None else before
            python = sys.executable if checkout is ROOT else str(checkout / ".venv/train/bin/python")
            folders = [str(checkout / part) for part in ("training", "export", "runtime")]
            paths = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
            with tempfile.TemporaryDirectory() as folder, Listener(f"{folder}/socket") as listener:
                command = [python, "-c", _CHILD, str(checkout / "tools"), f"{folder}/socket"]
                command += ["ort_qat" if kind == "before" else kind, size, str(threads)]
                self._processes.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}))
                self._pipes[kind] = listener.accept()
            self._pipes[kind].recv()

    def step(self, kind: str, arrays: dict[str, Any], labels: Any) -> tuple[float, float, float]:
        """Let one contender take one step; returns wall seconds, CPU seconds, peak MB."""
        self._pipes[kind].send((arrays, labels))
        answer: tuple[float, float, float] = self._pipes[kind].recv()
        return answer

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes.values():
            pipe.send(None)
        for process in self._processes:
            process.wait()


def bench_steps(
    size: str,
    *,
    kinds: tuple[str, ...],
    batch_size: int,
    length: int,
    n_steps: int,
    threads: int,
    before: Path | None,
) -> dict[str, Any]:
    """Time single steps on full-length batches; returns times by contender and ratios."""
    field = Field(size, kinds, threads, before)
    kinds = (*kinds, *(["before"] if before else []))
    draw = np.random.default_rng(0)
    taken: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
    for step in range(n_steps + 2):
        shape = (batch_size, length)
        arrays = {
            "input_ids": draw.integers(5, 30000, shape), "attention_mask": np.ones(shape, dtype=np.int64),
            "token_type_ids": np.zeros(shape, dtype=np.int64),
        }  # fmt: skip
        labels = draw.integers(0, 2, batch_size)
        for kind in kinds:
            answer = field.step(kind, arrays, labels)
            if step >= 2:  # the first ones allocate
                taken[kind].append(answer)
        print(f"{size}: step {step + 1} of {n_steps + 2}", end="\r", file=sys.stderr)
    field.close()
    times = {kind: _times(answers) for kind, answers in taken.items()}
    cpu = {kind: found.cpu_min for kind, found in times.items()}
    return {
        "times": {kind: asdict(found) for kind, found in times.items()},
        **{f"ratio_ort_qat_to_{kind}_cpu": cpu["ort_qat"] / cpu[kind] for kind in kinds if kind != "ort_qat"},
    }


def bench_epoch(
    data_dir: str, task_name: str, *, batch_size: int, share: float, threads: int, kinds: tuple[str, ...]
) -> dict[str, Any]:
    """Time a share of a real epoch's batches, each taken by length and padded to 128."""
    from q8bert.data.readers import read_split
    from q8bert.tasks.glue import glue_task
    from q8bert.text.batching import model_inputs, shuffled_batches
    from q8bert.text.tokenizer import TextTokenizer
    from q8bert.training.models.model_folder import find_model

    split = read_split(glue_task(task_name), data_dir, "train", skip_malformed=False)
    tokenizer = TextTokenizer.load(find_model("minilm-l6", revision=None).path / "tokenizer.json", max_length=128)
    texts, pairs = split.columns()
    started = time.perf_counter()
    encoded = tokenizer.encode(texts, pairs)
    tokenizing, batching = time.perf_counter() - started, 0.0
    names = ("input_ids", "attention_mask", "token_type_ids")
    batches = shuffled_batches(encoded.lengths, batch_size, seed=0, epoch=0)
    chosen = batches[: max(3, int(share * len(batches)))]
    field = Field("minilm-l6", kinds, threads)
    seconds = {(kind, way): [0.0, 0.0] for kind in kinds for way in ("by_length", "padded")}
    for number, rows in enumerate(chosen):
        started = time.perf_counter()
        arrays = model_inputs(encoded, rows, names, pad_token_id=0)
        batching += time.perf_counter() - started
        missing = 128 - arrays["input_ids"].shape[1]
        padded = {name: np.pad(array, ((0, 0), (0, missing))) for name, array in arrays.items()}
        labels = np.zeros(len(rows), dtype=np.int64)
        for kind in kinds:
            for way, inputs in (("by_length", arrays), ("padded", padded)):
                wall, cpu, _ = field.step(kind, inputs, labels)
                if number:  # the first one allocates
                    seconds[kind, way] = [seconds[kind, way][0] + wall, seconds[kind, way][1] + cpu]
        print(f"{task_name}: batch {number + 1} of {len(chosen)}", end="\r", file=sys.stderr)
    field.close()
    n_rows = sum(len(rows) for rows in chosen[1:])
    result: dict[str, Any] = {
        "task": task_name, "n_rows": n_rows, "n_rows_of_epoch": len(encoded), "tokenizing_seconds_once": tokenizing,
        "batching_ms_a_step": 1000 * batching / len(chosen),
    }  # fmt: skip
    for kind in kinds:
        by_length, padded_seconds = seconds[kind, "by_length"], seconds[kind, "padded"]
        result[kind] = {
            "examples_a_second": n_rows / by_length[0],
            "cpu_ratio_by_length_to_padded": by_length[1] / padded_seconds[1],
            "wall_ratio_by_length_to_padded": by_length[0] / padded_seconds[0],
        }
    return result


def _times(answers: list[tuple[float, float, float]]) -> Times:
    walls, cpus, memory = (list(values) for values in zip(*answers, strict=True))
    return Times(min(walls), statistics.median(walls), min(cpus), statistics.median(cpus), max(memory))


def _print(report: dict[str, Any]) -> None:
    for size, found in report["sizes"].items():
        print(f"\n{size}, {report['batch_size']} x {report['length']}, {report['steps']} steps, interleaved")
        print(f"{'':20s}{'wall min':>10s}{'median':>10s}{'CPU min':>10s}{'median':>10s}{'peak MB':>10s}")
        for kind, times in found["times"].items():
            values = (times["wall_min"], times["wall_median"], times["cpu_min"], times["cpu_median"])
            print(f"{kind:20s}" + "".join(f"{value:10.3f}" for value in values) + f"{times['peak_memory_mb']:10.0f}")
        print("\n".join(f"{name}: {value:.3f}" for name, value in found.items() if name != "times"))
    if epoch := report.get("epoch"):
        print(
            f"\n{epoch['task']}, {epoch['n_rows']} rows of an epoch of {epoch['n_rows_of_epoch']}, minilm-l6; "
            f"tokenizing {epoch['tokenizing_seconds_once']:.2f} s once a run, batching "
            f"{epoch['batching_ms_a_step']:.3f} ms a step"
        )
        for kind in CONTENDERS:
            if kind in epoch:
                found = epoch[kind]
                print(
                    f"{kind:12s}{found['examples_a_second']:8.1f} examples a second; by length / padded to 128: "
                    f"{found['wall_ratio_by_length_to_padded']:.3f} wall, "
                    f"{found['cpu_ratio_by_length_to_padded']:.3f} CPU"
                )
    cpus = report["machine"]
    print(f"\n{cpus['architecture']} {cpus['cpu']} ({cpus['n_cpus']} CPUs, {' '.join(cpus['flags'])}), ", end="")
    print(f"{report['threads']} threads; {report['versions']}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["minilm-l6", "bert-base"], choices=list(SIZES))
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--variants", action="store_true", help="time the ONNX Runtime engine in other ways too")
    parser.add_argument("--before", type=Path, help="checkout, with its .venv/train, whose engine is timed too")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--data-dir", help="folder of a GLUE task, to time real batches too")
    parser.add_argument("--task", default="STS-B")
    parser.add_argument("--epoch-share", type=float, default=0.1, help="share of the epoch's batches to time")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    from q8bert.machine.cpu import computes_bfloat16
    from q8bert.training.versions import library_versions

    report: dict[str, Any] = {
        "machine": machine(), "threads": args.threads, "versions": library_versions(), "batch_size": args.batch_size,
        "length": args.length, "steps": args.steps, "seed": 0, "sizes": {},
    }  # fmt: skip
    contenders = tuple(kind for kind in CONTENDERS if kind != "torch_bf16" or computes_bfloat16())
    for size in args.sizes:
        report["sizes"][size] = bench_steps(
            size, kinds=contenders + (tuple(VARIANTS) if args.variants else ()), batch_size=args.batch_size,
            length=args.length, n_steps=args.steps, threads=args.threads, before=args.before,
        )  # fmt: skip
    if args.data_dir:
        report["epoch"] = bench_epoch(
            args.data_dir, args.task, batch_size=args.batch_size, share=args.epoch_share, threads=args.threads,
            kinds=contenders,
        )  # fmt: skip
    if args.json:
        print(json.dumps(report))
    else:
        _print(report)


if __name__ == "__main__":
    main()
