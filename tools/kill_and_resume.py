"""Kill a training run again and again, and check that it ends as one that was never interrupted.

Trains once without interruption. Then starts the same run in another folder, kills it with SIGKILL after a random time,
starts it again with the same options, and so on; after the last kill it may finish. Weights, ranges, scores and log
(times apart) must equal those of the first run bit for bit. The run starts in float, goes on quantized, and ends with
frozen ranges; a step has two micro-batches. With ``--save-every 1`` most kills fall into the
writing of a checkpoint.

    python tools/kill_and_resume.py --model build/test-bundles/model --data-dir build/test-bundles/data/SST-2 --kills 50
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders, load_checkpoint

# what of the log is of a clock, and never the same twice
TIMES = {"seconds", "seconds_per_step", "rows_per_second"}


def killed_run(config: TrainConfig, delay: float | None) -> tuple[bool, str]:
    """Train in a child process and kill it after ``delay`` seconds.

    Args:
        config: The run.
        delay: Seconds; None lets it finish.

    Returns:
        Whether it finished, and what stood in the checkpoints folder when it was killed.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(config)
            status = 0
        finally:
            os._exit(status)
    if delay is not None:
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return _finished(status), ""
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False, _state_of(config.output_dir)
    return _finished(status), ""


def differences(expected: Path, found: Path) -> list[str]:
    """Return what differs between two finished runs; nothing if they are the same."""
    faults = []
    theirs, ours = (load_checkpoint(max(checkpoint_folders(run).values())) for run in (expected, found))
    if theirs.progress != ours.progress:
        faults.append(f"progress {ours.progress} instead of {theirs.progress}")
    for what, before, after in (
        ("weight", theirs.weights, ours.weights),
        ("moment", theirs.optimizer, ours.optimizer),
        ("ranges", theirs.ranges.tensors(), ours.ranges.tensors()),
    ):
        faults += [f"{what} {name}" for name in before if not torch.equal(before[name], after[name])]
    if list(checkpoint_folders(expected)) != list(checkpoint_folders(found)):
        faults.append(f"checkpoints {list(checkpoint_folders(found))} instead of {list(checkpoint_folders(expected))}")
    if _events(expected) != _events(found):
        faults.append("log")
    return faults


def _events(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def _finished(status: int) -> bool:
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("the run failed by itself; see the traceback above")
    return True


def _state_of(run: Path) -> str:
    if not (run / "run.json").is_file():
        return "before the run began"
    names = [path.name for path in (run / "checkpoints").glob("*")]
    if any(".deleted" in name for name in names):
        return "while an old checkpoint was deleted"
    if any(name.endswith(".partial") for name in names):
        return "while a checkpoint was written"
    return "between checkpoints" if names else "before the first checkpoint"


def main() -> None:
    """Run the campaign; exits 1 if the runs differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--task", default="SST-2", choices=list(GLUE_TASKS))
    parser.add_argument("--engine", default="ort", choices=["ort", "torch"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--max-steps", type=int, default=40)
    parser.add_argument("--save-every", type=int, default=5)
    parser.add_argument("--teacher", help="as of `q8bert train`, for example twin")
    parser.add_argument("--ranges", default="ema", choices=["ema", "learned"], help="as of `q8bert train`")
    parser.add_argument("--average-weights", type=float, default=0.0, help="as of `q8bert train`")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:

        def config(name: str) -> TrainConfig:
            return TrainConfig.from_options(
                task=glue_task(args.task), data_dir=args.data_dir, model=args.model, engine=args.engine, batch_size=16,
                gradient_accumulation=2, quantize_from=0.3, freeze_ranges_from=0.8, keep_checkpoints=2,
                learning_rate=1e-3, max_length=32, max_steps=args.max_steps, eval_every=10, save_every=args.save_every,
                log_every=1, threads=1, dropout=0.1, output_dir=Path(folder, name), cache_dir=Path(folder, "cache"),
                teacher=args.teacher, average_weights=args.average_weights, ranges=args.ranges,
            )  # fmt: skip

        killed_run(config("cache-filler"), None)  # so that no kill falls into the long building of the graph
        started = time.monotonic()
        killed_run(config("whole"), None)
        duration = time.monotonic() - started
        moments: Counter[str] = Counter()
        n_compared = 0
        while n_compared == 0 or sum(moments.values()) < args.kills:
            is_last = sum(moments.values()) >= args.kills
            finished, moment = killed_run(config("cut"), None if is_last else draw.uniform(0.0, 0.7) * duration)
            if not finished:
                moments[moment] += 1
                continue
            if faults := differences(Path(folder, "whole"), Path(folder, "cut")):
                sys.exit(f"runs differ in {', '.join(faults)}")
            n_compared += 1
            Path(folder, "cut").rename(Path(folder, f"done-{n_compared}"))
        print(f"{args.engine}: {sum(moments.values())} kills: " + ", ".join(f"{n} {at}" for at, n in moments.items()))
        print(f"{n_compared} runs ended with the same weights, moments, ranges, scores and log as without interruption")


if __name__ == "__main__":
    main()
