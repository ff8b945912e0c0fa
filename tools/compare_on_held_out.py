r"""Compare ways to train on held-out training rows, seed by seed, with an interval for each difference.

An arm is a name and options of `q8bert train`; the first arm is what the others are compared with. Each seed draws the
run and the rows that are held out, the same for all arms, so differences are paired. Every arm gets what it is told and
nothing else: as many steps and as many candidates, unless its options say otherwise. Printed are the scores of the best
checkpoint and of the last evaluation, which no score picked, and how far each arm stands from the first one: the mean
over the seeds and its 95 % interval by Student's t, which takes the differences for a sample of a normal distribution.

A result is kept in comparison.json as soon as it is there, and a run that was killed is gone on with, so the same
command, given again, goes on where it stopped. More seeds and arms may be added to it.

    python tools/compare_on_held_out.py GLUE/RTE --task RTE --seeds 11 12 13 \
        --arm plain --arm twin teacher=twin --arm rate quantized_learning_rate=5e-5 --arm fp32 quantize=false
"""

import argparse
import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from held_out import hold_out
from scipy import stats

from q8bert.spec.files import read_json, write_json
from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.tasks.task import Task
from q8bert.training import TrainConfig, train
from q8bert.training.versions import library_versions

_CONFIDENCE = 0.95
_KINDS = {"best": "metrics", "last": "last_metrics"}


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: What it is called.
        options: Of ``TrainConfig``, flat.
    """

    name: str
    options: Mapping[str, Any]


def parsed_options(texts: Sequence[str]) -> dict[str, Any]:
    """Return ``name=value`` texts as options; a value is JSON, or text where it is none."""
    options = {}
    for text in texts:
        name, is_there, value = text.partition("=")
        if not is_there:
            raise SystemExit(f"{text!r} is no option of an arm; write it as name=value, for example teacher=twin")
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            options[name.replace("-", "_")] = value
    return options


def paired_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences and the ends of its 95 % interval; they are infinite for a single one."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return mean, -np.inf, np.inf
    error = float(np.std(differences, ddof=1) / np.sqrt(len(differences)))
    reach = error * float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(differences) - 1))
    return mean, mean - reach, mean + reach


def key_of(task: Task, arm: Arm, seed: int, share: float) -> str:
    """Return what names a result: all that decides it, whatever the arm is called."""
    return json.dumps({"task": task.name, "share": share, "seed": seed, **arm.options}, sort_keys=True)


def result_of(task: Task, arm: Arm, seed: int, args: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Train one arm with one seed, or go on where it was killed."""
    key = key_of(task, arm, seed, args.share)
    run = args.work_dir / task.name / "runs" / hashlib.sha256(key.encode()).hexdigest()[:16]
    options = {"threads": args.threads, **arm.options, "seed": seed}
    config = TrainConfig.from_options(task=task, data_dir=str(data), output_dir=run, **options)
    result = train(config)
    shutil.rmtree(run)
    return {
        "metrics": dict(result.metrics), "last_metrics": dict(result.last_metrics), "best_step": result.best_step,
        "n_steps": result.n_steps, "train_rows": result.data.train.n_rows, "held_out_rows": result.data.dev.n_rows,
        "machine": platform.platform(), "versions": library_versions(),
    }  # fmt: skip


def print_comparison(
    arms: Sequence[Arm], seeds: Sequence[int], found: Mapping[tuple[str, int], Mapping[str, Any]], metric: str
) -> None:
    """Print each arm's scores, and how far it stands from the first arm."""
    for kind, field in _KINDS.items():
        points = {arm.name: [100 * found[arm.name, seed][field][metric] for seed in seeds] for arm in arms}
        print(f"\n{metric} in points, {kind}:")
        for arm in arms:
            scores = " ".join(f"{value:6.2f}" for value in points[arm.name])
            line = f"  {arm.name:16} {scores}  mean {np.mean(points[arm.name]):6.2f}"
            if arm is not arms[0]:
                pairs = zip(points[arm.name], points[arms[0].name], strict=True)
                mean, low, high = paired_interval([ours - theirs for ours, theirs in pairs])
                line += f"  {arm.name} - {arms[0].name}: {mean:+.2f} [{low:+.2f}, {high:+.2f}]"
            print(line)


def main() -> None:
    """Train what is missing and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder of the task's files")
    parser.add_argument("--task", default="RTE", choices=list(GLUE_TASKS))
    parser.add_argument("--arm", action="append", nargs="+", required=True, metavar=("NAME", "OPTION=VALUE"))
    parser.add_argument("--options", nargs="*", default=[], metavar="OPTION=VALUE", help="options of all arms")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--share", type=float, default=0.2, help="share of the training rows to hold out")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--work-dir", type=Path, default=Path("build/held-out"))
    args = parser.parse_args()
    task, common = glue_task(args.task), parsed_options(args.options)
    arms = [Arm(name, {**common, **parsed_options(options)}) for name, *options in args.arm]
    if len({arm.name for arm in arms}) < len(arms):
        raise SystemExit("two arms have one name; give each its own")
    file = args.work_dir / task.name / "comparison.json"
    kept: dict[str, Any] = dict(read_json(file)["results"]) if file.exists() else {}  # type: ignore[call-overload]
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    for seed in args.seeds:
        data = args.work_dir / task.name / f"rows-{args.share:g}-{seed}"
        hold_out(task, args.data_dir, data, share=args.share, seed=seed)
        for arm in arms:
            key = key_of(task, arm, seed, args.share)
            if key not in kept:
                kept[key] = result_of(task, arm, seed, args, data)
                write_json(file, {"results": kept})
            found[arm.name, seed] = kept[key]
            scores = ", ".join(f"{name} {100 * value:.2f}" for name, value in kept[key]["metrics"].items())
            print(f"seed {seed}, {arm.name}: {scores}", flush=True)
    print_comparison(arms, args.seeds, found, task.data.main_metric)


if __name__ == "__main__":
    main()
